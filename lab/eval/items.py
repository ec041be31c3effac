"""What is measured on: the pack's `valid` rows, held-out text, articles put together again, SQuAD-format files."""

import hashlib
import json
import random
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from lab.corpus import held_out, text_of
from lab.pack import PACK, rows
from services.agent.types import SourceView
from services.ingest import parse_document
from services.ingest.types import Chapter

Row = dict
T = TypeVar("T")
WHOLE = 12_000  # characters from which on paragraphs of one title are taken for an article


class Missing(Exception):
    """Data that a measure needs is not there; the message says which and what to do."""


def pack_file(name: str) -> Path:
    path = PACK / f"{name}.jsonl.zst"
    if not path.exists():
        raise Missing(
            f"{path} is not there. The evaluation sets are the training pack's (../shared/data), which is not part of "
            "a clone: put it there (or name its folder in SHIORI_PACK), or measure a file of your own with "
            "`python -m lab.eval squad --squad FILE`."
        )
    return path


@lru_cache(maxsize=8)
def valid(name: str) -> tuple[Row, ...]:
    return tuple(row for row in rows(pack_file(name)) if row["split"] == "valid")


def calibrating(title: str) -> bool:
    """Is an article (its rows in `valid`) set aside for calibrating refusals? One title in five or so, by its hash."""
    return int(hashlib.sha256(title.encode()).hexdigest(), 16) % 5 == 0


@lru_cache(maxsize=8)
def measured(name: str) -> tuple[Row, ...]:
    """The `valid` rows that are measured on: no calibration saw their article."""
    return tuple(row for row in valid(name) if not calibrating(row["title"]))


@lru_cache(maxsize=8)
def for_calibration(name: str) -> tuple[Row, ...]:
    """The other `valid` rows: never measured on."""
    return tuple(row for row in valid(name) if calibrating(row["title"]))


def sample(items: Sequence[T], n: int, seed: int) -> list[T]:
    """n of them at random (all, when there are fewer); the same for the same seed."""
    return random.Random(seed).sample(list(items), min(n, len(items)))


def articles(found: Sequence[Row]) -> dict[str, list[str]]:
    """Title to paragraphs, in their order, of what is one article: not posts and reviews that share a title."""
    ordered = sorted((r for r in found if not r["source"].endswith(("reddit", "amazon_reviews"))), key=place)
    by_title: dict[str, dict[str, None]] = {}
    for row in ordered:
        by_title.setdefault(row["title"], {})[row["context"]] = None
    return {title: list(texts) for title, texts in by_title.items() if sum(map(len, texts)) >= WHOLE}


def place(row: Row) -> tuple[str, int]:
    return row["title"], row.get("paragraph") or 0


def squad_file(path: Path) -> list[Row]:
    """Rows of a file in SQuAD's JSON format, 1.1 or 2.0; `answers` is empty where the text does not say."""
    try:
        data = json.loads(path.read_text())["data"]
        return [
            {"source": path.stem, "title": article.get("title", ""), "context": paragraph["context"], "paragraph": n}
            | {"question": qa["question"], "answers": [a["text"] for a in qa.get("answers", ())]}
            for article in data
            for n, paragraph in enumerate(article["paragraphs"])
            for qa in paragraph["qas"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Missing(f"{path} is not a file in SQuAD's format (data/paragraphs/qas): {error!r}") from error


@lru_cache(maxsize=8)
def held_texts(kind: str, untouched: bool = False) -> tuple[str, ...]:
    """The corpus' texts of a kind (wiki, docs, code, books) that training leaves out, by training's own rule.

    `untouched`: without those of which a training task shows a piece (the article's title or the page's path says so).
    """
    files = sorted((PACK / "corpus").glob(f"{kind}-*.jsonl.zst")) or [pack_file(f"corpus/{kind}-00")]
    found = [(row, f"/{path.name}") for path in files for row in rows(path) if held_out(row)]
    shown = in_tasks() if untouched else frozenset()
    return tuple(sorted(text_of(row | {"part": part}) for row, part in found if not names(row) & shown))


def names(row: Row) -> set[str]:
    return {row[key].replace("_", " ").lower() for key in ("title", "path") if row.get(key)}


@lru_cache(maxsize=1)
def in_tasks() -> frozenset[str]:
    """Titles and paths of what questions and summaries of the training split are about."""
    files = [path for part in ("qa", "summ") for path in sorted((PACK / part).glob("*.jsonl.zst"))]
    found = (row for path in files for row in rows(path) if row.get("split", "train") == "train")
    return frozenset(name for row in found for name in names(row))


def document(name: str, words: str) -> SourceView:
    """A text as the product sees it after an upload as `name.txt`, in one chapter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "document.txt"
        path.write_text(words)
        parsed = parse_document(path, "document.txt")
    whole = Chapter(name, 1, (0, len(parsed.text)), (1, parsed.text.count("\n") + 1))
    return SourceView(name, "document", name, parsed.text, parsed.blocks, [whole])
