"""One's own texts and questions: a JSONL file, one object a line, all of it checked before anything is trained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

SHOWN = 10  # problems named before "and N more"
Filled = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"\S")]


class DataError(ValueError):
    """The file cannot be trained on; the message names the lines, what is wrong with each and what to do."""


class Text(BaseModel):
    """Running text, learnt word by word."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: Filled = Field(validation_alias=AliasChoices("text", "context"))


class Question(Text):
    """A question on a text; the answer stands in the text letter for letter, or is null: the text does not say."""

    question: Filled
    answer: Filled | None

    @model_validator(mode="after")
    def _literal(self) -> "Question":
        if self.answer is not None:
            _check_literal("answer", self.answer, self.text)
        return self


class Summary(Text):
    """The sentences of a text that carry it, each letter for letter."""

    summary: list[Filled] = Field(min_length=1)

    @model_validator(mode="after")
    def _literal(self) -> "Summary":
        for number, sentence in enumerate(self.summary, 1):
            _check_literal(f"sentence {number} of the summary", sentence, self.text)
        return self


def _check_literal(what: str, part: str, text: str) -> None:
    if part in text:
        return
    shown = json.dumps(part if len(part) <= 60 else part[:57] + "...", ensure_ascii=False)
    at = text.casefold().find(part.casefold())
    hint = f"; the text has {json.dumps(text[at : at + len(part)], ensure_ascii=False)}" if at >= 0 else ""
    raise ValueError(f"the {what} {shown} is not in the text letter for letter{hint}")


def read_rows(path: Path) -> list[Text]:
    """Every row of the file; empty lines are skipped. Raises DataError, which names up to ten bad lines."""
    rows, problems = [], []
    for number, line in _lines(path):
        try:
            rows.append(_row(line))
        except ValueError as error:
            problems.append(f"{path}:{number}: {_said(error)}")
    if problems:
        more = [f"and {len(problems) - SHOWN} more lines"] if len(problems) > SHOWN else []
        raise DataError("\n".join([*problems[:SHOWN], *more]))
    if not rows:
        raise DataError(f"{path} has no rows: one JSON object a line, see docs/fine-tuning.md")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    return ((n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip())


def _row(line: str) -> Text:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError('not a JSON object: a row looks like {"text": "...", "question": "...", "answer": "..."}')
    if "text" in fields and "context" in fields:
        raise ValueError('"text" and "context" are two names of one field: keep one')
    return _kind(fields).model_validate(fields)


def _kind(fields: dict[str, Any]) -> type[Text]:
    if "summary" in fields:
        return Summary
    return Question if "question" in fields or "answer" in fields else Text


def _said(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}, column {error.colno}"
    if not isinstance(error, ValidationError):
        return str(error)
    found = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
    return "; ".join(f"{where}: {what}" if where else what for where, what in found)
