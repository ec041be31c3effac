"""Bits per byte of text that training left out (the same hash decides), by part of the corpus, through Score."""

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
CHARS = 4_000  # of a text, from its beginning: about a thousand tokens


def measure(run: Run) -> Figures:
    picked = {kind: drawn(kind, run.n, run.seed) for kind in KINDS}
    run.notes.extend([f"bits: training left out no text of {kind}; no figure" for kind in KINDS if not picked[kind]])
    run.total(sum(map(len, picked.values())))
    out: Figures = {}
    for kind, texts in picked.items():
        if texts:
            told = each(partial(bits, run.client, kind), texts, run.step)
            out[f"bits.{kind}"] = mean([b / size for b, size, _ in told], 1) | {
                "unit": "bits/byte, mean of texts",
                "bits_per_byte": round(sum(b for b, _, _ in told) / sum(size for _, size, _ in told), 4),
                "perplexity": round(2 ** (sum(b for b, _, _ in told) / sum(count for _, _, count in told)), 2),
            }
    return out


def drawn(kind: str, n: int, seed: int) -> list[str]:
    held = held_texts(kind, untouched=True)
    return [words[:CHARS] for words in random.Random(seed).sample(held, min(n, len(held)))]


def bits(client: InferenceClient, kind: str, words: str) -> tuple[float, int, int]:
    """(bits, bytes, tokens) of a text after its opening special."""
    told = client.score("", [special("file" if kind == "code" else "doc")], [text(words)])
    return -told.logprob / math.log(2), told.bytes, told.tokens
