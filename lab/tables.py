"""Task rows as token tables: built once from the pack, read by the renderer.

One flat array of tokens holds every text; an item names its texts by number. Nothing here is random at training time:
the renderer does the mixing.
"""

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lab.pack import PACK, rows
from lab.spans import WORD, best_sentences, quote

QA_SOURCES = ["squad", "fairytaleqa", "other", "qamr", "wiki_templates", "replaced"]
NAME = re.compile(r"[A-Z][\w’'-]+(?: [A-Z][\w’'-]+){0,3}")
NUMBER = re.compile(r"\d[\d,]*")


class Texts:
    """Token sequences by number, each text stored once."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.number, self.all = tokenizer, {}, []

    def add(self, text: str) -> int:
        if text not in self.number:
            self.number[text] = len(self.all)
            self.all.append(np.array(self.tokenizer.encode(text).ids, np.uint16))
        return self.number[text]

    def arrays(self) -> dict[str, np.ndarray]:
        sizes = [len(t) for t in self.all]
        return {"tokens": np.concatenate(self.all), "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}


def window(row: dict, size: int = 2400) -> dict | None:
    """A long context cut to the neighbourhood of its answer."""
    start = row["answer_start"][0]
    if len(row["context"]) <= size or start < 0:
        return row if len(row["context"]) <= 4 * size else None
    left = max(0, start - random.Random(row["id"]).randrange(size - 400))
    left = row["context"].rfind("\n", 0, left) + 1 if left - row["context"].rfind("\n", 0, left) < 300 else left
    return row | {
        "context": row["context"][left : left + size],
        "answers": row["answers"][:1],
        "answer_start": [start - left],
    }


def literal(row: dict) -> tuple[int, str] | None:
    """(offset, answer) of the answer most annotators gave, if it is in the text letter for letter."""
    spots = [(s, a) for s, a in zip(row["answer_start"], row["answers"], strict=True) if s >= 0 and a.strip()]
    spots = [(s, a) for s, a in spots if row["context"][s : s + len(a)] == a and len(a) < 400]
    if not spots:
        return None
    votes = Counter(a for _, a in spots)
    start, answer = max(spots, key=lambda spot: (votes[spot[1]], -len(spot[1])))
    trimmed = answer.strip()
    return start + answer.index(trimmed), trimmed


def nearest_sentence(row: dict) -> tuple[int, str] | None:
    """For an answer in other words: the sentence that holds most of them."""
    wanted = {w for a in row["answers"] for w in WORD.findall(a.lower())}
    if row.get("explicit") is not True or len(wanted) < 2:
        return None
    for start, end in best_sentences(row["context"], " ".join(row["answers"]), 1):
        held = wanted & set(WORD.findall(row["context"][start:end].lower()))
        if len(held) >= 0.7 * len(wanted):
            return start, row["context"][start:end]
    return None


def replaced(
    row: dict, spot: tuple[int, str], pool: list[str], pick: random.Random
) -> tuple[dict, tuple[int, str]] | None:
    """The same row about somebody else: the answer's name or number exchanged wherever it stands."""
    start, old = spot
    new = pick.choice(pool)
    if new in row["context"] or old in new or row["question"].count(old):
        return None
    whole = re.compile(rf"(?<!\w){re.escape(old)}(?!\w)")
    before = len(whole.findall(row["context"][:start]))
    text = whole.sub(lambda _: new, row["context"])
    spots = [m.start() for m in re.finditer(re.escape(new), text)]
    if before >= len(spots):
        return None
    return row | {"context": text}, (spots[before], new)


def pools(spots: list[str]) -> dict[str, list[str]]:
    return {
        "name": sorted({s for s in spots if NAME.fullmatch(s)}),
        "number": sorted({s for s in spots if NUMBER.fullmatch(s) and len(s) > 1}),
    }


def sort_of(answer: str) -> str | None:
    return "name" if NAME.fullmatch(answer) else "number" if NUMBER.fullmatch(answer) and len(answer) > 1 else None


def qa_rows(name: str, split: str, keep: float = 1.0):
    pick = random.Random(3)
    for row in rows(PACK / f"qa/{name}.jsonl.zst"):
        if row["split"] != split or pick.random() > keep:
            continue
        row = window(row)
        spot = row and (literal(row) or (nearest_sentence(row) if name == "fairytaleqa" else None))
        if spot:
            yield row, spot


def build_qa(texts: Texts, split: str) -> np.ndarray:
    """[context, question, answer, source, article] per question."""
    items, articles, pick = [], {}, random.Random(5)
    keep = {"wiki_templates": 0.4, "qamr": 0.6}
    found = {name: list(qa_rows(name, split, keep.get(name, 1.0))) for name in QA_SOURCES[:-1]}
    pool = pools([a for name in ("squad", "wiki_templates") for _, (_, a) in found[name]])

    def add(row: dict, spot: tuple[int, str], source: str) -> None:
        start, answer = spot
        assert row["context"][start : start + len(answer)] == answer
        cut = quote(row["context"], start, len(answer))
        name = row.get("title") or row.get("story") or row["context"][:60]
        if source == "replaced":
            name = f"replaced {len(items)}"  # never beside the paragraph it contradicts
        article = articles.setdefault(name, len(articles))
        items.append(
            [
                texts.add(row["context"]),
                texts.add(row["question"].strip()),
                texts.add(cut),
                QA_SOURCES.index(source),
                article,
            ]
        )

    for name, pairs in found.items():
        for row, spot in pairs:
            add(row, spot, name)
            sort = sort_of(spot[1])
            if sort and name in ("squad", "fairytaleqa") and split == "train" and pick.random() < 0.7:
                other = replaced(row, spot, pool[sort], pick)
                if other:
                    add(*other, "replaced")
    return np.array(items, np.int32)


def cut_document(text: str, size: int) -> str:
    return text if len(text) <= size else text[: text.rfind(" ", 0, size)]


def build_summaries(texts: Texts, split: str) -> np.ndarray:
    """[document, query or -1, up to four sentences or -1] per document."""
    items = []
    for name in ("design_docs", "meetings_stories_papers", "textbooks", "wiki_leads"):
        for row in rows(PACK / f"summ/{name}.jsonl.zst"):
            document = cut_document(row["document"], 5000)
            chosen = best_sentences(document, row["summary"]) if row["split"] == split else []
            if chosen:
                quotes = [texts.add(quote(document, s, e - s)) for s, e in chosen]
                items.append([texts.add(document), -1, *quotes, *[-1] * (4 - len(quotes))])
    return np.array(items, np.int32)


def definition(code: str) -> tuple[int, int] | None:
    """(start, length) of the definition's line, stripped: the first line that is no decorator, attribute or comment."""
    offset = 0
    for line in code.splitlines(keepends=True):
        body = line.strip()
        if body and not body.startswith(("@", "#", "//", "/*", "*")):
            return offset + line.index(body), len(body)
        offset += len(line)
    return None


def build_find(texts: Texts, split: str) -> np.ndarray:
    """[description, path and code, definition line, repository] per function."""
    items, repos = [], {}
    for row in rows(PACK / "repoqa/functions.jsonl.zst"):
        place = definition(row["code"])
        if row["split"] != split or not place or len(row["description"]) < 15:
            continue
        text = row["path"] + "\n" + cut_document(row["code"], 1600)
        line = quote(text, len(row["path"]) + 1 + place[0], place[1])
        if line in text:
            repo = repos.setdefault(row["repo"], len(repos))
            description = row["description"].strip()[:300]
            items.append([texts.add(description), texts.add(text), texts.add(line), repo])
    return np.array(items, np.int32)


def build(split: str, out: Path, tokenizer: Tokenizer) -> None:
    texts = Texts(tokenizer)
    parts = {"qa": build_qa(texts, split), "summaries": build_summaries(texts, split), "find": build_find(texts, split)}
    print(split, {k: v.shape for k, v in parts.items()}, "tokens", sum(map(len, texts.all)))
    out.mkdir(parents=True, exist_ok=True)
    for name, array in (parts | texts.arrays()).items():
        np.save(out / f"{name}.npy", array)


if __name__ == "__main__":
    tok = Tokenizer.from_file("lab/model/tokenizer.json")
    for which in ("valid", "train"):
        build(which, Path(".carry/tables") / which, tok)
