from services.agent import answer, read_source
from services.agent.repo import candidates, learned
from services.agent.symbols import split
from tests.agent.twin import Twin, quoting, repository

CODE = {
    "net/http.py": '''import os


def parseHTTPHeader(line):
    """Splits a header line into its name and value."""
    return line.split(":", 1)


@cached
def retry_after(reply):
    """Seconds until the next attempt is allowed."""
    return int(reply["Retry-After"])
''',
    "store/disk.py": '''def flush_to_disk(rows):
    """Writes buffered rows durably and calls fsync."""
    for row in rows:
        row.write()


def open_file(path):
    return open(path)
''',
}
QUESTION = "Which function writes buffered rows to disk?"


def ready(script):
    model, view = Twin(script), repository(CODE)
    read_source(model, view, view.engine_session)
    return model, view


def test_identifiers_are_split_into_words():
    assert split("parseHTTPHeader retry_after fooBar2") == "parse HTTP Header retry after foo Bar 2"


def test_candidates_by_name_docstring_and_body():
    view = repository(CODE)
    best = lambda question: candidates([view], question)[0].symbol.name  # noqa: E731
    assert best(QUESTION) == "flush_to_disk"
    assert best("where is the http header parsed?") == "parseHTTPHeader"
    assert best("how long to wait until the next attempt") == "retry_after"
    assert best("open_file") == "open_file"


def test_path_and_line_of_the_definition_confirmed_by_the_model():
    model, view = ready(quoting(" def retry_after(reply):"))
    found = answer(model, [view], "ses_1", "How many seconds until the next attempt?")
    assert found.text == "`net/http.py:10`\ndef retry_after(reply):" and found.confirmed
    (quote,) = found.quotes
    assert view.text[slice(*quote.char)] == quote.text == found.text[slice(*quote.span)]
    assert (quote.path, quote.line, quote.match) == ("net/http.py", (10, 10), "exact")


def test_the_model_is_shown_the_candidates_code():
    model, view = ready(quoting("def flush_to_disk(rows):"))
    answer(model, [view], "ses_1", QUESTION)
    _, prompt = model.generated[0]
    assert prompt.startswith(f"<|find|>{QUESTION}<|file|>store/disk.py\ndef flush_to_disk(rows):")
    assert prompt.endswith(f"<|find|>{QUESTION}<|answer|>")
    kept = f"<|find|>{QUESTION}<|answer|><|quote|>def flush_to_disk(rows):<|/quote|><|end|>"
    assert model.sessions["ses_1"].segments[-1] == kept


def test_the_best_candidate_is_given_with_its_reservation():
    model, view = ready(quoting("def invented(thing):"))
    found = answer(model, [view], "ses_1", QUESTION)
    assert not found.confirmed and "not confirmed by the model" in found.text and "invented" not in found.text
    assert found.text.startswith("`store/disk.py:1`")


def test_the_model_moves_the_odds_as_far_as_it_was_found_right(monkeypatch):
    script = quoting("def open_file(path):")
    question = "Which function writes rows of a file to disk?"
    model, view = ready(script)
    assert [c.symbol.name for c in candidates([view], question)[:2]] == ["flush_to_disk", "open_file"]
    monkeypatch.setitem(learned(), "model", 0.0)
    found = answer(model, [view], "ses_1", question)
    assert found.text.startswith("`store/disk.py:1`") and not found.confirmed
    assert "`store/disk.py:7` open_file" in found.text
    monkeypatch.setitem(learned(), "model", 30.0)
    found = answer(model, [view], "ses_2", question)
    assert found.text.startswith("`store/disk.py:7`\n") and found.confirmed


def test_a_class_named_by_its_name_is_found():
    view = repository({"net.py": "class RateLimit:\n    def rate_limit(self):\n        return RateLimit\n"})
    assert candidates([view], "What is RateLimit?")[0].symbol.name == "RateLimit"


def test_tests_stand_back_unless_they_are_asked_for():
    view = repository({"src/wrap.py": "def wrap_text(words):\n    return words\n",
                       "tests/test_wrap.py": "def test_wrap_text(wrap):\n    wrap_text(wrap)\n"})  # fmt: skip
    assert candidates([view], "how is text wrapped?")[0].symbol.name == "wrap_text"
    assert candidates([view], "which test covers text that is wrapped?")[0].symbol.name == "test_wrap_text"


def test_nothing_like_it():
    model, view = ready(quoting("def x():"))
    assert not answer(model, [view], "ses_1", "zebra crossing").answered


def test_the_deed_asked_for_is_the_function_of_that_name():
    """ "Restored from a snapshot" asks for `restore`, not for `snapshot`; a plain word names no symbol by itself."""
    code = "def snapshot(seq):\n    return copy(seq)\n\n\ndef restore(snapshot):\n    return paste(snapshot)\n"
    view = repository({"engine.py": code})
    assert candidates([view], "Where is a sequence restored from a snapshot?")[0].symbol.name == "restore"
