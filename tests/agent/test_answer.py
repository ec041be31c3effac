"""A question's turn against the scripted twin."""

import pytest

from services import errors
from services.agent import answer, read_source
from services.agent.answer import NOT_ANSWERED
from services.agent.retrieve import index_of
from tests.agent.twin import Twin, book, quoting

pytestmark = pytest.mark.usefixtures("plainly")

TEXT = """## One

The key to the lamp room hung on the seventh hook. Mr. Pell oiled it every Friday.

## Two

She paid 41 crowns for the ledger, and the ledger was green.
"""
QUESTION = "On which hook did the key to the lamp room hang?"
LONG = TEXT + "".join(
    f"\nThe lamp of room {n} was lit by hand, and by nobody else, at {n} past six.\n" for n in range(80)
)


def ready(script, text=TEXT, **more):
    model, view = Twin(script, **more), book(text)
    read_source(model, view, view.engine_session)
    return model, view


def test_the_answer_is_the_span_and_its_sentence_in_the_sources_letters():
    model, view = ready(quoting(" The Seventh Hook"))
    events = []
    found = answer(model, [view], "ses_1", QUESTION, lambda *e: events.append(e), bookmark="msg_1")
    assert found.text == "the seventh hook — “The key to the lamp room hung on the seventh hook.”"
    (quote,) = found.quotes
    assert quote.text == found.text[slice(*quote.span)] == view.text[slice(*quote.char)]
    assert (quote.match, quote.chapter, quote.line, found.origin) == ("normalised", 0, (3, 3), "read")
    assert [name for name, _ in events] == ["draft"] * 3 + ["state.restored", "delta", "citation"]
    assert dict(events)["state.restored"] == {"ms": 1.5, "tokens": 7, "source": "vault"}
    assert found.usage["calls"] == 1 and found.timing["restore_ms"] == 1.5


def test_the_reading_is_asked_with_the_question_alone():
    model, view = ready(quoting("seventh"))
    answer(model, [view], "ses_1", QUESTION)
    assert model.generated == [("ses_1", f"<|question|>{QUESTION}<|answer|><|quote|>")]


def test_the_second_look_shows_a_short_source_whole_between_the_question_twice():
    model, view = ready(quoting("green"))
    answer(model, [view], "ses_1", QUESTION)
    _, (session, prompt) = model.generated
    opening, end = f"<|question|>{QUESTION}<|doc|>", f"<|question|>{QUESTION}<|answer|><|quote|>"
    assert session == "" and prompt == opening + view.text + end


def test_of_a_long_source_the_nearest_passage_is_shown_alone_then_all_then_the_next():
    model, view = ready(lambda context: ["<|none|>", "<|end|>"], LONG)
    found = answer(model, [view], "ses_1", QUESTION)
    shown = [prompt.split("<|doc|>")[1:] for _, prompt in model.generated]
    passages = [hit.block.text for hit in found.evidence]
    (last,) = {after.split("<|question|>")[1] for *_, after in shown[1:]}
    assert last == f"{QUESTION}<|answer|><|quote|>" and len(passages) == 3 and "seventh hook" in passages[0]
    assert [[text.split("<|question|>")[0] for text in look] for look in shown] == [
        [], passages[:1], passages, passages[1:2]
    ]  # fmt: skip


def test_no_further_look_is_taken_once_a_proposal_is_sure():
    """Sure of what the nearest passage says: neither all together nor the next one are shown."""
    model, view = ready(forgetful, LONG)
    found = answer(model, [view], "ses_1", QUESTION)
    assert "seventh hook" in found.text and found.usage["calls"] == len(model.generated) == 2


def test_what_the_model_says_is_told_piece_by_piece_with_the_look_it_belongs_to():
    model, view = ready(forgetful)
    events = []
    answer(model, [view], "ses_1", QUESTION, lambda *e: events.append(e))
    drafts = [(d["look"], d["n"], d["text"]) for name, d in events if name == "draft"]
    first, second = [(1, 0, "“"), (1, 1, " green"), (1, 2, "”")], [(2, 0, "“"), (2, 1, " seventh hook"), (2, 2, "”")]
    assert drafts == first + second


def test_nothing_is_indexed_before_the_model_speaks():
    model, view = ready(quoting("seventh hook"), LONG + "\nA text that no other test has indexed.\n")
    indexed = []
    answer(model, [view], "ses_1", QUESTION, lambda *event: indexed.append(index_of.cache_info().misses))
    assert indexed[0] < indexed[-1]


def test_the_session_keeps_question_and_answer_in_one_segment_with_a_bookmark():
    model, view = ready(quoting(" seventh hook"))
    found = answer(model, [view], "ses_1", QUESTION, bookmark="msg_1")
    reading = model.sessions["ses_1"]
    kept = f"<|question|>{QUESTION}<|answer|><|quote|> seventh hook<|/quote|><|end|>"
    assert reading.segments[-1] == kept and len(reading.segments) == 3
    assert reading.bookmarks == {"msg_1": 3}
    assert found.digest == reading.head().digest
    assert len(model.sessions["src-doc_a"].segments) == 2  # the source's reading is untouched


def test_a_turn_that_was_kept_before_its_worker_was_lost_is_not_kept_twice():
    model, view = ready(quoting("seventh"))
    first = answer(model, [view], "ses_1", QUESTION, bookmark="msg_1")
    assert answer(model, [view], "ses_1", QUESTION, bookmark="msg_1").digest == first.digest
    assert len(model.sessions["ses_1"].segments) == 3


def test_none_from_the_reading_and_from_the_passages_is_none():
    model, view = ready(lambda context: ["<|none|>", "<|end|>"])
    found = answer(model, [view], "ses_1", "What did the lamp cost?")
    assert (found.text, found.answered, found.quotes) == (NOT_ANSWERED, False, [])
    assert found.evidence and all(view.text[slice(*h.block.char)] == h.block.text for h in found.evidence)
    assert len(model.generated) == 2 and found.usage["calls"] == 2
    assert model.sessions["ses_1"].segments[-1].endswith("<|none|><|end|>")


def forgetful(context):
    """Behind a reading it says something of the text; from the passages alone, the right thing."""
    words = " seventh hook" if context.startswith("<|question|>") else " green"  # a scratch session begins so
    return ["<|quote|>", words, "<|/quote|>", "<|end|>"]


def test_a_span_without_support_is_looked_at_again_from_the_passages_and_the_origin_says_so():
    model, view = ready(forgetful)
    found = answer(model, [view], "ses_1", QUESTION)
    assert "seventh hook" in found.text and found.origin == "retrieved" and len(model.generated) == 2
    assert model.sessions["ses_1"].segments[-1].endswith("<|quote|> seventh hook<|/quote|><|end|>")


def test_a_span_whose_sentence_has_nothing_of_the_question_is_not_an_answer():
    model, view = ready(quoting(" green"))
    assert not answer(model, [view], "ses_1", "Who was the king of Spain?").answered


def test_what_is_not_in_the_source_is_never_shown():
    model, view = ready(quoting("the golden elephant of Samarkand"))
    found = answer(model, [view], "ses_1", QUESTION)
    assert found.text == NOT_ANSWERED and "elephant" not in str(found)
    assert len(model.generated) == 2  # bounded


def test_a_source_too_large_to_read_is_answered_from_passages_and_says_so():
    model, view = Twin(quoting("seventh hook")), book(TEXT, session=None)
    found = answer(model, [view], "ses_1", QUESTION)
    assert (found.origin, found.digest) == ("retrieved", "") and found.answered
    assert model.generated[0][0] == "" and model.reads == [] and model.sessions == {}


def test_a_session_that_stands_at_a_bookmark_knows_nothing_of_what_comes_after():
    """Neither the model nor retrieval nor a quote may give away what was not read yet."""
    model, view = ready(quoting("green"))
    early = view.upto(view.outline[0].char[1])
    found = answer(model, [early], "ses_early", "What colour was the ledger?")
    assert not found.answered and "green" not in str(found)
    assert model.sessions["ses_early"].segments[0] == model.sessions["src-doc_a"].segments[0]
    assert "green" not in str(model.generated) and len(model.sessions["ses_early"].segments) == 2
    assert answer(model, [view], "ses_late", "What colour was the ledger?").answered


def test_a_reading_of_another_model_is_made_again_once_before_it_is_forked():
    model, view = ready(quoting("seventh hook"))
    model.sessions["src-doc_a"].made_by = "an older kernel"
    events = []
    answer(model, [view], "ses_1", QUESTION, lambda *e: events.append(e))
    answer(model, [view], "ses_2", QUESTION)
    assert events[0] == ("reading.progress", {"phase": "reading again: the model has changed"})
    assert [name for name, _ in model.generated].count("src-doc_a") == 1


def test_several_sources_are_read_one_after_another():
    one, two = book(TEXT), book("The moon of Tarn is blue.", "doc_b", "src-doc_b")
    model = Twin(quoting("blue"))
    for view in (one, two):
        read_source(model, view, view.engine_session)
    found = answer(model, [one, two], "ses_2", "What colour is the moon of Tarn?")
    assert found.quotes[0].source_id == "doc_b"
    assert len(model.sessions["ses_2"].segments) == 4 and "ses_2.building" not in model.sessions


def test_a_session_that_moved_meanwhile_is_not_written_to():
    model, view = ready(quoting("seventh hook"))
    answer(model, [view], "ses_1", QUESTION)

    def meddle(event, data):
        if event == "delta":
            model.sessions["ses_1"].segments.append("somebody else")

    with pytest.raises(errors.HeadMoved):
        answer(model, [view], "ses_1", QUESTION, meddle)


def test_cancelled_turns_leave_the_session_as_it_was():
    model, view = ready(quoting("seventh hook"))
    answer(model, [view], "ses_1", QUESTION)
    before = model.sessions["ses_1"].head()

    def stop(event, data):
        raise errors.Cancelled()

    with pytest.raises(errors.Cancelled):
        answer(model, [view], "ses_1", QUESTION, stop)
    assert model.sessions["ses_1"].head() == before
    assert set(model.sessions) == {"src-doc_a", "ses_1"}  # no fork stays behind


def test_words_that_are_nearly_the_sentence_are_not_said_twice():
    model, view = ready(quoting("The key to the lamp room hung on the seventh hook"))
    assert answer(model, [view], "ses_1", QUESTION).text == "“The key to the lamp room hung on the seventh hook.”"


def test_an_empty_source_answers_nothing():
    model, view = Twin(), book("x")
    read_source(model, view, view.engine_session)
    assert not answer(model, [view], "ses_1", "Anything?").answered


@pytest.mark.parametrize(
    ("said", "shown"), [("thirty", "thirty-one"), ("Pell", "Pell"), ("one years", "thirty-one years")]
)
def test_a_span_ends_where_words_end(said, shown):
    model, view = ready(quoting(said), "Ambrose Pell had lit the lamps for thirty-one years.\n")
    found = answer(model, [view], "ses_1", "For how many years had Pell lit the lamps?")
    assert found.text.startswith(f"{shown} — “")
