"""The records of a folder as one SVG: how many times its floor every implementation takes, on a logarithmic axis.

python -m bench.h200.plot bench/results/h200 OUT.svg
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

LINE, LEFT, WIDE, MOST = 17, 470, 560, 1000.0  # pixels; times the floor at the right end
OURS, THEIRS = "#2b6cb0", "#b7791f"
MATMUL = 700e12  # FLOP/s of a long bf16 product on an H200 (model-prefill.json)


def records(folder: Path) -> list[dict[str, Any]]:
    found = [r for file in sorted(folder.glob("*.json")) for r in json.loads(file.read_text())["records"]]
    return [r for r in found if r.get("floor_ms", 0) > 0]


def across(times: float) -> float:
    return LEFT + WIDE * math.log10(min(max(times, 1.0), MOST)) / math.log10(MOST)


def bar(record: dict[str, Any], y: int) -> str:
    times = record["ms"] / max(record["floor_ms"], 1e3 * record["flops"] / MATMUL)
    colour = OURS if record["impl"].startswith(("ours", "shiori")) else THEIRS
    name = f"{record['op']}, {record['case']}: {record['impl']}"[:78]
    return (
        f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>'
        f'<rect x="{LEFT}" y="{y + 2}" width="{across(times) - LEFT + 1:.1f}" height="{LINE - 5}" fill="{colour}"/>'
        f'<text x="{across(times) + 6:.1f}" y="{y + 12}">{times:.1f} ({record["ms"]:.3g} ms)</text>'
    )


def tick(times: int, high: int) -> str:
    x = round(across(times))
    return f'<path d="M{x},36 v{high - 46}" stroke="#ddd"/><text x="{x - 6}" y="32">{times}</text>'


def draw(folder: Path, out: Path) -> None:
    lines = records(folder)
    high = 50 + LINE * len(lines)
    ticks = "".join(tick(10**n, high) for n in range(4))
    title = "times the floor: of bytes (copy bandwidth) or of FLOPs (matrix products), the longer. Blue: ours"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1160 {high}" font-family="sans-serif" font-size="11">'
    body = "\n".join(bar(record, 40 + LINE * n) for n, record in enumerate(lines))
    out.write_text(
        f'{head}<rect width="100%" height="100%" fill="white"/><text x="8" y="16" font-size="14">{title}</text>'
        f"{ticks}\n{body}</svg>\n"
    )


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
