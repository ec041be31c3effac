"""The corpus as flat arrays of tokens: made once from the pack, drawn from by position.

`python -m lab.corpus OUT FILE...` writes FILE.tokens.npy, FILE.ends.npy and FILE.held.json for each pack file: one text
in two hundred is held out by its name's hash, for perplexity.
"""

import json
import multiprocessing
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lab.pack import PACK, rows
from lab.tokenizer import DOC, FILE


def held_out(row: dict) -> bool:
    return zlib.crc32(row["id"].encode()) % 200 == 0


def text_of(row: dict) -> str:
    """What is read: a file is its path and its text, an article its title and its text."""
    if "path" in row and row["path"] and "/code" in row["part"]:
        return row["path"] + "\n" + row["text"]
    title = row.get("title")
    return f"{title}\n\n{row['text']}" if title and not row["text"].startswith(("#", title)) else row["text"]


def encode_part(job: tuple[str, int, int]) -> tuple[list[np.ndarray], list[str]]:
    name, part, parts = job
    tokenizer = Tokenizer.from_file("lab/model/tokenizer.json")
    kept, held = [], []
    for number, row in enumerate(rows(PACK / f"{name}.jsonl.zst")):
        if number % parts == part:
            text = text_of(row | {"part": "/" + name.split("/")[-1]})
            if held_out(row):
                held.append(text)
            else:
                kept.append(np.array(tokenizer.encode(text).ids, np.uint16))
    return kept, held


def encode(name: str, out: Path, parts: int) -> None:
    with multiprocessing.Pool(parts) as pool:
        done = pool.map(encode_part, [(name, part, parts) for part in range(parts)], chunksize=1)
    texts = [text for kept, _ in done for text in kept]
    stem = name.split("/")[-1]
    np.save(out / f"{stem}.ends.npy", np.cumsum([len(t) for t in texts]))
    (out / f"{stem}.held.json").write_text(json.dumps([text for _, held in done for text in held]))
    np.save(out / "writing.npy", np.concatenate(texts))
    (out / "writing.npy").rename(out / f"{stem}.tokens.npy")  # appears whole


class Corpus:
    """Draws stretches of text; parts that appear on disk later are taken in by `refresh`."""

    def __init__(self, folder: Path, weights: dict[str, float]):
        self.folder, self.weights, self.parts = folder, weights, {}
        self.refresh()
        while not self.parts:  # still being written
            time.sleep(0.5)
            self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("*.tokens.npy")):
            stem = path.name.split(".")[0]
            if stem not in self.parts:
                self.parts[stem] = (np.load(path, mmap_mode="r"), np.load(self.folder / f"{stem}.ends.npy"))
        kinds = [s.split("-")[0] for s in self.parts]
        shares = [self.weights.get(k, 0.1) / kinds.count(k) for k in kinds]
        self.shares = [s * len(self.parts[stem][0]) ** 0.5 for s, stem in zip(shares, self.parts, strict=True)]
        self.prose = [0 if k == "code" else s for k, s in zip(kinds, self.shares, strict=True)]

    def draw(self, pick, limit: int, prose: bool = False) -> tuple[int, np.ndarray]:
        """(marker, tokens): a whole text, or a stretch of it from a random place when it is longer than the limit."""
        stem = pick.choices(list(self.parts), self.prose if prose and any(self.prose) else self.shares)[0]
        tokens, ends = self.parts[stem]
        index = int(np.searchsorted(ends, pick.randrange(len(tokens)), side="right"))
        start, end = (int(ends[index - 1]) if index else 0), int(ends[index])
        if end - start > limit:
            start = pick.randrange(start, end - limit + 1) if pick.random() < 0.8 else start
            end = start + limit
        return (FILE if stem.startswith("code") else DOC), np.array(tokens[start:end])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file in sys.argv[2:]:
        encode(f"corpus/{file}", folder, max(1, multiprocessing.cpu_count() - 1))
