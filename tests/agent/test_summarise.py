from services.agent import read_source, summarise_chapter, summarise_whole
from services.agent.carrying import weights
from services.agent.central import central
from tests.agent.twin import Twin, book, quoting

PROSE = [
    "The lighthouse stood at the end of the harbour wall in Brackwater.",
    "Every evening the keeper climbed the lighthouse stairs with a lamp.",
    "The harbour of Brackwater depended on the lighthouse and its keeper.",
    "A cat slept on the warm stones beside the baker's window that day.",
    "The keeper of the lighthouse wrote the names of ships in a green ledger.",
]
TEXT = (
    "## One\n\n" + " ".join(PROSE) + "\n\n## Two\n\n" + " ".join(s.replace("lighthouse", "mill") for s in PROSE) + "\n"
)


def ready(script):
    model, view = Twin(script), book(TEXT)
    read_source(model, view, view.engine_session)
    return model, view


def letters(view, summary):
    for quote in summary.quotes:
        assert view.text[slice(*quote.char)] == quote.text == summary.text[slice(*quote.span)]


def test_what_the_model_chose_counts_by_its_weight(monkeypatch):
    model, view = ready(quoting(PROSE[4].lower(), " " + PROSE[1], PROSE[1]))
    monkeypatch.setitem(weights(), "model", 9.0)
    made = summarise_chapter(model, view, 0)
    assert PROSE[1] in made.text and PROSE[4] in made.text
    assert (made.method, made.title, made.chapter) == ("model+lexical", "One", 0)
    letters(view, made)
    monkeypatch.setitem(weights(), "model", -9.0)
    made = summarise_chapter(model, view, 0)
    assert PROSE[1] not in made.text and PROSE[4] not in made.text and made.method == "lexical"


def test_all_of_it_chosen_by_the_model(monkeypatch):
    model, view = ready(quoting(PROSE[4], PROSE[1], PROSE[0]))
    monkeypatch.setitem(weights(), "model", 9.0)
    made = summarise_chapter(model, view, 0)
    assert made.text == f"{PROSE[0]} {PROSE[1]} {PROSE[4]}" and made.method == "model"


def test_it_is_asked_at_the_chapters_end_on_a_fork_that_goes_away():
    seen = []
    model, view = ready(lambda context: seen.append(context) or ["<|none|>", "<|end|>"])
    summarise_chapter(model, view, 0)
    assert seen[0].endswith("<|summary|>") and "mill" not in seen[0]
    assert list(model.sessions) == ["src-doc_a"]


def test_other_chapters_sentences_do_not_count(monkeypatch):
    model, view = ready(quoting(PROSE[1].replace("lighthouse", "mill"), PROSE[1], "Nothing of the kind."))
    monkeypatch.setitem(weights(), "model", 9.0)
    made = summarise_chapter(model, view, 0)
    assert made.method == "model+lexical" and PROSE[1] in made.text and "mill" not in made.text
    assert len(made.quotes) == 3
    letters(view, made)


def test_without_the_model_what_carries_the_chapter_remains():
    model, view = ready(lambda context: ["<|none|>", "<|end|>"])
    made = summarise_chapter(model, view, 1)
    assert made.method == "lexical" and len(made.quotes) == 3
    letters(view, made)


def test_a_source_that_was_not_read_is_summarised_from_the_chapters_text():
    model, view = Twin(quoting(PROSE[0], PROSE[2])), book(TEXT, session=None)
    assert summarise_chapter(model, view, 0).quotes
    assert model.generated[0][0] == "" and model.generated[0][1].startswith("<|doc|>")


def test_the_whole_keeps_the_order_of_the_book_and_quotes_only():
    model, view = ready(quoting(PROSE[0], PROSE[4]))
    made = summarise_whole(model, view, [summarise_chapter(model, view, n) for n in range(2)])
    assert made.chapter is None and made.title == "A book" and 1 <= len(made.quotes) <= 8
    assert [q.char for q in made.quotes] == sorted(q.char for q in made.quotes)
    letters(view, made)


def test_an_empty_chapter_makes_an_empty_summary():
    view = book("## One\n\n## Two\n\nText is here and it goes on for a little while.\n", session=None)
    made = summarise_chapter(Twin(), view, 0)
    assert (made.text, made.quotes) == ("", [])
    assert summarise_whole(Twin(), view, [made]).text == ""


def test_central_sentences_leave_out_what_says_the_same():
    assert central([] * 2, 3) == []
    assert len(central(["the same green words here"] * 5 + ["other green things"], 3)) <= 2
