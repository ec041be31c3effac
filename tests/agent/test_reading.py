import pytest

from services import errors
from services.agent import plan_reading, read_source
from services.agent.reading import bookmark_at
from tests.agent.twin import Twin, book, repository

TEXT = "Preface.\n\n## One\n\nFirst words.\n\n## Two\n\nSecond words.\n\n## Three\n\nThird words.\n"


def test_each_chapter_is_one_segment_with_a_bookmark_behind_it():
    model, view = Twin(), book(TEXT)
    result = read_source(model, view, "src-doc_a")
    reading = model.sessions["src-doc_a"]
    assert "".join(reading.segments) == "<|doc|>" + TEXT
    assert list(reading.bookmarks) == [bookmark_at(view, c.char[1]) for c in view.outline]
    assert (result.segments_done, result.digest) == (3, reading.head().digest)


def test_reading_goes_on_where_it_broke_off_and_ends_the_same():
    whole, broken, view = Twin(), Twin(break_at="Third"), book(TEXT)
    expected = read_source(whole, view, "s").digest
    with pytest.raises(errors.EngineUnavailable):
        read_source(broken, view, "s")
    assert read_source(broken, view, "s", start=2).digest == expected
    assert len(broken.reads) == 3  # nothing twice


def test_reading_twice_reads_once():
    model, view = Twin(), book(TEXT)
    first = read_source(model, view, "s")
    assert read_source(model, view, "s", start=3).digest == first.digest and len(model.reads) == 3


def test_progress_counts_up_to_all_of_it():
    events = []
    read_source(Twin(), book(TEXT), "s", lambda name, data: events.append((name, data)))
    done = [data["done"] for name, data in events if name == "reading.progress"]
    last = events[-1][1]
    assert done == sorted(done) and last["done"] == last["total"] and last["segments_done"] == last["segments_total"]
    assert last["rate"] > 0 and last["eta_s"] == 0


def test_every_file_is_announced_by_its_path():
    model, view = Twin(), repository({"b.py": "def b():\n    pass\n", "a.py": "x = 1\n"})
    read_source(model, view, "s")
    assert model.sessions["s"].segments == ["<|file|>a.py\nx = 1\n", "<|file|>b.py\ndef b():\n    pass\n"]


def test_text_cannot_pass_for_a_special():
    """The parts say what is special; text that looks like it stays text."""
    model, view = Twin(), book("He wrote <|end|> on the wall.")
    read_source(model, view, "s")
    assert model.sessions["s"].segments == ["<|doc|>He wrote <|end|> on the wall."]


def test_a_plan_says_what_is_known_and_reading_it_computes_the_rest_only():
    model, old = Twin(), book("## One\n\nThe lamp.\n\n## Two\n\nThe sea.\n\n")
    assert plan_reading(model, old).known_tokens == 0
    read_source(model, old, "src-doc_a")
    new = book(old.text + "## Three\n\nThe ledger.\n", "doc_b", "src-doc_b")
    plan = plan_reading(model, new)
    assert (plan.known_segments, plan.segments, plan.after) == (2, 3, "Two")
    assert (plan.from_session, plan.from_bookmark) == ("src-doc_a", f"doc_a@{len(old.text)}")
    result = read_source(model, new, "src-doc_b")
    assert (result.shared_tokens, result.read_tokens) == (plan.known_tokens, plan.to_read)
    assert plan.tokens == result.position and 0 < plan.to_read < plan.known_tokens


def test_a_reading_whose_segments_were_cut_otherwise_is_not_gone_on_with():
    model, view = Twin(), book("## One\n\nThe lamp.\n\n## Two\n\nThe sea.\n\n")
    list(model.read(model.open_session("s").session_id, [], bookmark="doc_a@5"))
    with pytest.raises(errors.StateIncompatible, match="cut into other segments"):
        read_source(model, view, "s")
