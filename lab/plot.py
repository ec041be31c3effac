"""The loss curve as SVG: `python -m lab.plot OUT.svg CURVE.jsonl...`, calls one after another."""

import json
import sys
from pathlib import Path

WIDE, HIGH, LEFT, TOP = 860, 380, 60, 40
LABELS = {"text": "text: running text", "answers": "answers of all tasks, a mix that changes"}
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE + 110} {HIGH + 100}" '
    'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
)
COLOURS = {"text": "#2b6cb0", "answers": "#c05621"}


def points(files: list[str], name: str, window: int = 7) -> list[tuple[float, float]]:
    """(millions of tokens since the model began, running mean of the loss); lines without this loss are left out."""
    lines = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    found = [(line["tokens"] / 1e6, line[name]) for line in lines if line[name] > 0]

    def smooth(i):
        return [y for _, y in found[max(0, i - window) : i + 1]]

    return [(x, sum(smooth(i)) / len(smooth(i))) for i, (x, _) in enumerate(found)]


def path(line: list[tuple[float, float]], last: float, top: float) -> str:
    def place(x, y):
        return f"{LEFT + WIDE * x / last:.1f},{TOP + HIGH * (1 - min(y, top) / top):.1f}"

    return " ".join(place(x, y) for x, y in line)


def grid(last: float, top: float) -> list[str]:
    parts = []
    for y in range(int(top) + 1):
        at = TOP + HIGH * (1 - y / top)
        parts.append(f'<path d="M{LEFT},{at} h{WIDE}" stroke="#ddd"/><text x="{LEFT - 22}" y="{at + 4}">{y}</text>')
    for x in range(0, int(last) + 1, 200):
        parts.append(f'<text x="{LEFT + WIDE * x / last - 12}" y="{TOP + HIGH + 22}">{x}</text>')
    return parts


def draw(out: Path, files: list[str], top: float = 5.0) -> None:
    lines = {name: points(files, name) for name in COLOURS}
    last = max(x for line in lines.values() for x, _ in line)
    parts = [HEAD, f'<text x="{LEFT}" y="22">loss (nats a token) over millions of tokens read</text>', *grid(last, top)]
    for number, (name, line) in enumerate(lines.items()):
        colour, across = COLOURS[name], LEFT + 20 + 260 * number
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path(line, last, top)}"/>')
        parts.append(f'<text x="{across}" y="{TOP + HIGH + 50}" fill="{colour}">{LABELS[name]}</text>')
    out.write_text("\n".join([*parts, "</svg>"]))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2:])
