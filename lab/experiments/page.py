"""One page of all experiments, and the table of claims in lab/README.md.

python -m lab.experiments.page
"""

import html
from importlib import import_module
from pathlib import Path

from lab.experiments.common import RESULTS, Claim, Results, write

ALL = ["synthetic", "ablations", "scaling", "longcontext", "efficiency", "reinforcement"]
NAMES = [name for name in ALL if (Path(__file__).parent / name / "claims.py").exists()]
README = Path(__file__).parents[1] / "README.md"
FROM, TO = "<!-- claims: python -m lab.experiments.page -->", "<!-- end of claims -->"
WORDS = {True: "yes", False: "no", None: "–"}
HEAD = ["claim", "the paper", "here", "agrees", "command"]
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.3rem .6rem;text-align:left}"
)


def main() -> None:
    claims = {
        name: import_module(f"lab.experiments.{name}.claims").claims(Results(RESULTS / name).all()) for name in NAMES
    }
    rows = [row(claim) for name in NAMES for claim in claims[name]]
    RESULTS.mkdir(exist_ok=True)
    write(RESULTS / "index.html", page(claims))
    write(README, between(README.read_text(), markdown(rows)))
    print(f"{RESULTS / 'index.html'}: {len(rows)} claims")


def row(claim: Claim) -> list[str]:
    return [claim.claim, claim.paper, claim.ours, WORDS[claim.agrees], f"`{claim.command}`"]


def markdown(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between(text: str, table: str) -> str:
    """The text with the table between its two markers. ValueError: they are not there."""
    before, _, rest = text.partition(FROM)
    _, end, after = rest.partition(TO)
    if not end:
        raise ValueError(f"{README} lacks the lines {FROM!r} and {TO!r}")
    return f"{before}{FROM}\n{table}\n{TO}{after}"


def page(claims: dict[str, list[Claim]]) -> str:
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>Laboratory</title><style>{STYLE}</style>"]
    parts += ["<h1>The laboratory</h1>", table([row(claim) for name in NAMES for claim in claims[name]])]
    for name in NAMES:
        parts.append(f"<h2 id={name}>{name}</h2>")
        plots = sorted((RESULTS / name).glob("*.png"))
        parts += [f'<figure><img src="{name}/{file.name}" alt="{file.stem}"></figure>' for file in plots]
        parts.append(cases(name))
    return "\n".join([*parts, "</html>", ""])


def cases(name: str) -> str:
    found = Results(RESULTS / name).all()
    if not found:
        return "<p>Not run yet.</p>"
    links = [f'<a href="{name}/{one["case"]}.json">{html.escape(one["case"])}</a>' for one in found]
    return f"<details><summary>{len(found)} results</summary><p>{', '.join(links)}</p></details>"


def table(rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell.strip('`'))}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + "\n".join([line(HEAD, "th"), *(line(cells, "td") for cells in rows)]) + "</table>"


if __name__ == "__main__":
    main()
