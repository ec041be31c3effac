"""Read the data pack: one JSON object a line, zstd."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

PACK = Path(os.environ.get("SHIORI_PACK", Path(__file__).resolve().parents[2] / "shared" / "data"))


def rows(path: Path) -> Iterator[dict]:
    import zstandard  # only where the pack is: the GPU machine has neither

    with open(path, "rb") as file:
        stream = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(file)
        for line in io.TextIOWrapper(stream, encoding="utf-8"):
            yield json.loads(line)
