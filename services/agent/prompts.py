"""The segments of docs/decisions/0001: what stands between which special tokens. User text is only ever a text part."""

from collections.abc import Sequence

from services.agent.model import special, text
from services.inference.pb.inference_pb2 import Part


def question_turn(question: str, passages: Sequence[str]) -> list[Part]:
    """The question; where to look, shown once more; the question again. `<|answer|>` comes next (posing.py)."""
    ask = [special("question"), text(question)]
    shown = [part for passage in passages for part in (special("doc"), text(passage))]
    return [*ask, *shown, *(ask if shown else [])]


def find_turn(description: str, codes: Sequence[tuple[str, str]]) -> list[Part]:
    """`codes`: (path, code) of the candidates."""
    ask = [special("find"), text(description)]
    shown = [part for path, code in codes for part in (special("file"), text(f"{path}\n{code}"))]
    return [*ask, *shown, *(ask if shown else [])]


def quoted(words: Sequence[str]) -> list[Part]:
    return [part for w in words for part in (special("quote"), text(w), special("/quote"))]


def remembered(opening: str, question: str, words: Sequence[str]) -> list[Part]:
    """A turn as the session keeps it: question and answer, without the passages it has read before."""
    said = quoted(words) if words else [special("none")]
    return [special(opening), text(question), special("answer"), *said, special("end")]


def summary_turn(passage: str = "") -> list[Part]:
    """Of what was just read, or of a passage read here and now."""
    return [*([special("doc"), text(passage)] if passage else []), special("summary")]
