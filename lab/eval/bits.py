"""Bits per byte of text that training left out (by training's own rule), by part of the corpus, through Score.

The first 4,000 characters of a text, as a reader meets it; `inside`: as many from the middle of the longer ones.
"""

import math
import random
from functools import partial

from lab.eval.asking import each
from lab.eval.items import held_texts
from lab.eval.run import Figures, Run
from lab.scoring import mean
from services.agent.model import special, text
from services.inference.client import InferenceClient

KINDS = ("wiki", "docs", "code", "books")
CHARS = 4_000  # about a thousand tokens


def measure(run: Run) -> Figures:
    picked = {name: texts for kind in KINDS for name, texts in drawn(kind, run.n, run.seed).items()}
    run.notes.extend(f"bits: training left out no text for {name}; no figure" for name in picked if not picked[name])
    run.total(sum(map(len, picked.values())))
    out: Figures = {}
    for name, texts in picked.items():
        if texts:
            mark = "file" if name.startswith("code") else "doc"
            out[f"bits.{name}"] = figure(each(partial(bits, run.client, mark), texts, run.step))
    return out


def drawn(kind: str, n: int, seed: int) -> dict[str, list[str]]:
    held = held_texts(kind, untouched=True)
    chosen = random.Random(seed).sample(held, min(n, len(held)))
    middles = [words[len(words) // 2 :][:CHARS] for words in chosen if len(words) >= 3 * CHARS]
    return {kind: [words[:CHARS] for words in chosen], f"{kind}.inside": middles}


def bits(client: InferenceClient, mark: str, words: str) -> tuple[float, int, int]:
    """(bits, bytes, tokens) of a text after its opening special."""
    told = client.score("", [special(mark)], [text(words)])
    return -told.logprob / math.log(2), told.bytes, told.tokens


def figure(told: list[tuple[float, int, int]]) -> dict:
    """The mean of the texts' bits per byte with its interval; over all bytes; and as perplexity of a token."""
    total, size, tokens = (sum(column) for column in zip(*told, strict=True))
    figures = mean([one / length for one, length, _ in told], 1) | {"unit": "bits/byte, mean of texts"}
    return figures | {"bits_per_byte": round(total / size, 4), "perplexity": round(2 ** (total / tokens), 2)}
