"""What may stand in the JSONL, and what is said about what may not."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from lab.finetune.batches import LONGEST, STEP, STRETCH, batches, examples, plan, row_of
from lab.finetune.rows import DataError, Question, Summary, Text, read_rows
from lab.tokenizer import ANSWER, DOC, END, NONE, QUESTION, QUOTE, SUMMARY, UNQUOTE
from lab.vocab import Vocabulary

ROOT = Path(__file__).parents[2]
VOCAB = Vocabulary(Tokenizer.from_file(str(ROOT / "lab/model/tokenizer.json")))
TEXT = "The ferry leaves at nine. In winter it leaves at ten, and not at all when the river is frozen."


def refused(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return str(caught.value)


def row(**fields: object) -> str:
    return json.dumps(fields)


def test_every_kind_of_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        row(text=TEXT),
        row(context=TEXT, question="When in winter?", answer="at ten"),
        "",
        row(text=TEXT, question="Who steers it?", answer=None),
        row(text=TEXT, summary=["The ferry leaves at nine."]),
    ]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert read_rows(path) == [
        Text(text=TEXT),
        Question(text=TEXT, question="When in winter?", answer="at ten"),
        Question(text=TEXT, question="Who steers it?", answer=None),
        Summary(text=TEXT, summary=["The ferry leaves at nine."]),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (row(question="When?", answer="at nine"), "text: Field required"),
        (row(text=TEXT, question="When?"), "answer: Field required"),
        (row(text=TEXT, answer="at nine"), "question: Field required"),
        (row(text=TEXT, question="When?", answer="at eleven"), '"at eleven" is not in the text letter for letter'),
        (row(text=TEXT, question="When?", answer="At Ten"), 'the text has "at ten"'),
        (row(text=TEXT, question="When?", answer=9), "answer: Input should be a valid string"),
        (row(text=TEXT, question=" ", answer=None), "question: String should match"),
        (row(text="", question="When?", answer=None), "text: String should have at least 1 character"),
        (row(text=TEXT, context=TEXT), "two names of one field"),
        (row(text=TEXT, anwser="at nine"), "anwser: Extra inputs are not permitted"),
        (row(text=TEXT, summary=["The ferry leaves at nine.", "It sinks."]), "sentence 2 of the summary"),
        (row(text=TEXT, summary=[]), "summary: List should have at least 1 item"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_what_is_wrong(tmp_path: Path, line: str, said: str) -> None:
    told = refused(tmp_path, row(text=TEXT), "", line)
    assert told.startswith(f"{tmp_path}/rows.jsonl:3: ")
    assert said in told


def test_ten_bad_lines_are_named_and_the_others_counted(tmp_path: Path) -> None:
    told = refused(tmp_path, *["nonsense"] * 14).splitlines()
    assert [line.split(":")[1] for line in told[:-1]] == [str(n) for n in range(1, 11)]
    assert told[-1] == "and 4 more lines"


def test_a_file_that_is_empty_or_no_text_is_refused(tmp_path: Path) -> None:
    assert "has no rows" in refused(tmp_path, "", " ")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "missing")


def test_a_question_is_the_product_s_prompt_and_its_answer_the_text_s_own_tokens() -> None:
    asked = [Question(text=TEXT, question="When in winter?", answer="at ten")]
    found = examples([*asked, Question(text=TEXT, question="Who?", answer=None)], VOCAB)
    assert len(found) == 1, "questions on one text are turns of one sequence"
    ids = found[0].tokens.tolist()
    text, ten = VOCAB.encode(TEXT).tolist(), VOCAB.encode(" at ten").tolist()
    first = [QUESTION, *VOCAB.encode("When in winter?").tolist(), ANSWER]
    said = [QUOTE, *ten, UNQUOTE, END]
    second = [QUESTION, *VOCAB.encode("Who?").tolist(), ANSWER]
    assert ids == [DOC, *text, *first, *said, *second, NONE, END]
    assert ",".join(map(str, ten)) in ",".join(map(str, text))
    heavy = np.flatnonzero(found[0].weights == found[0].weights.max())
    start = 1 + len(text) + len(first)
    assert heavy.tolist() == [*range(start, start + len(said)), len(ids) - 2, len(ids) - 1]


def test_a_summary_is_its_sentences_as_quotes() -> None:
    ids = examples([Summary(text=TEXT, summary=["The ferry leaves at nine."])], VOCAB)[0].tokens.tolist()
    sentence = VOCAB.encode("The ferry leaves at nine.").tolist()
    assert ids == [DOC, *VOCAB.encode(TEXT).tolist(), SUMMARY, QUOTE, *sentence, UNQUOTE, END]


def test_running_text_is_cut_without_losing_a_token() -> None:
    long = TEXT * 100
    pieces = examples([Text(text=long)], VOCAB)
    assert max(len(p.tokens) for p in pieces) <= STRETCH
    assert np.concatenate([p.tokens for p in pieces]).tolist() == [DOC, *VOCAB.encode(long).tolist()]


def test_a_text_with_questions_that_is_too_long_is_refused() -> None:
    with pytest.raises(DataError, match=f"at most {LONGEST}: give the part"):
        examples([Question(text=TEXT * 200, question="When?", answer="at nine")], VOCAB)


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    lengths = [100, 900, 2000, 300, 50, 700, 600, 20]
    for epoch in range(3):
        found = list(batches(lengths, 7, epoch))
        assert sorted(i for b in found for i in b) == list(range(8))
        assert all(sum(lengths[i] for i in b) <= STEP or len(b) == 1 for b in found)
    assert list(batches(lengths, 7, 0)) == list(batches(lengths, 7, 0))
    assert len({str(list(batches(lengths, seed, 0))) for seed in range(5)}) > 1
    assert len({str(list(batches(lengths, 7, epoch))) for epoch in range(5)}) > 1


def test_steps_go_on_over_the_epochs() -> None:
    lengths = [600] * 5
    assert plan(lengths, 0, 1, 12) == plan(lengths, 0, 3, None)[:12]
    assert len(plan(lengths, 0, 2, None)) == 10


def test_a_row_says_where_each_example_begins() -> None:
    chosen = examples([Text(text=TEXT), Question(text=TEXT, question="Who?", answer=None)], VOCAB)
    tokens, targets, weights, ends = row_of(chosen)
    assert ends.tolist() == [0, len(chosen[0].tokens), len(chosen[0].tokens) + len(chosen[1].tokens)]
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert targets[start : end - 1].tolist() == tokens[start + 1 : end].tolist()
        assert weights[end - 1] == 0, "nothing is foreseen over a seam"


@pytest.mark.parametrize("name", ["job-cards.jsonl", "job-cards.valid.jsonl"])
def test_the_worked_example_is_good(name: str) -> None:
    rows = read_rows(ROOT / "examples" / name)
    assert len(rows) > 30 and len(examples(rows, VOCAB)) > 5
