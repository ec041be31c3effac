"""The corpus for the journey: ten parcels, each a tenth of every kind, as xz over token ids.

`python -m lab.parcel pack OUT [NUMBER...]` (once, here; all ten, or those; held.xz is what is held out),
`python -m lab.parcel unpack OUT PARCEL...` (on the GPU machine).
"""

import io
import lzma
import multiprocessing
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from lab.corpus import KINDS, held_out, text_of
from lab.pack import PACK, rows

FILES = ("wiki-00", "wiki-01", "books-00", "books-01", "docs-00", "code-00")
PARCELS = 10
PAIRS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 1, "pb": 1}]  # two bytes a token


def parcel_of(row: dict) -> int:
    return zlib.crc32(row["id"].encode()) // 200 % PARCELS


def encode(name: str, wanted: list[str]) -> dict[tuple[str, str], list[np.ndarray]]:
    """Token ids of every text of the wanted parcels by (parcel, kind); the parcel of those held out is "held"."""
    tokenizer = Tokenizer.from_file("lab/model/tokenizer.json")
    found, kind = defaultdict(list), name.split("-")[0]
    for row in rows(PACK / f"corpus/{name}.jsonl.zst"):
        parcel = "held" if held_out(row) else str(parcel_of(row))
        if parcel in wanted:
            ids = tokenizer.encode(text_of(row | {"part": f"/{name}"})).ids
            found[parcel, kind].append(np.array(ids, np.uint16))
    return found


def write(texts: dict[str, list[np.ndarray]], file: Path) -> None:
    """lengths and tokens of each kind, one array after another."""
    raw = io.BytesIO()
    for kind in KINDS:
        np.save(raw, np.array([len(t) for t in texts[kind]], np.uint32))
        np.save(raw, np.concatenate(texts[kind]) if texts[kind] else np.zeros(0, np.uint16))
    file.write_bytes(lzma.compress(raw.getvalue(), filters=PAIRS))


def read(file: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(kind, ends int64 [texts], tokens uint16) of every kind that has texts."""
    raw = io.BytesIO(lzma.decompress(file.read_bytes()))
    for kind in KINDS:
        lengths, tokens = np.load(raw), np.load(raw)
        if len(lengths):
            yield kind, np.cumsum(lengths, dtype=np.int64), tokens


def unpack(file: Path, out: Path) -> None:
    """KIND-PARCEL.tokens.npy and .ends.npy of every kind."""
    out.mkdir(parents=True, exist_ok=True)
    for kind, ends, tokens in read(file):
        np.save(out / f"{kind}-{file.stem}.ends.npy", ends)
        np.save(out / f"{kind}-{file.stem}.tokens.npy", tokens)


def pack(out: Path, parcels: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    wanted = [*(parcels or map(str, range(PARCELS))), "held"]
    texts: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    with multiprocessing.Pool(2) as pool:
        for found in pool.imap(partial(encode, wanted=wanted), FILES):
            for (parcel, kind), some in found.items():
                texts[parcel][kind] += some
        jobs = [({kind: texts[n][kind] for kind in KINDS}, out / f"{n}.xz") for n in wanted]
        pool.starmap(write, jobs, chunksize=1)


if __name__ == "__main__":
    if sys.argv[1] == "pack":
        pack(Path(sys.argv[2]), sys.argv[3:])
    else:
        with multiprocessing.Pool(8) as workers:
            workers.starmap(unpack, [(Path(file), Path(sys.argv[2])) for file in sys.argv[3:]])
