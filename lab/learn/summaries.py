"""The weights of services/agent/carrying.py, from chapters of the pack's `train` split and their reference summaries.

Target of a sentence: its share of the reference's words, plus 1.5 times its share of the reference's word pairs, less
0.35 for as many words as the reference has (so that long sentences do not win by length); in standard deviations
within its chapter. Ridge regression, every chapter with the same weight. The model's weight comes second: least squares
of what is left, on the chapters that the model was asked about (`--asked`; 0 keeps the weight that is there).
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from rouge_score.tokenizers import DefaultTokenizer

from lab.eval.asking import each, session
from lab.eval.items import Row, document, pack_file
from lab.eval.product import product
from lab.pack import rows
from services.agent import read_source
from services.agent.carrying import MODEL, SEEN, WEIGHTS, seen, weights
from services.agent.central import similarities
from services.agent.summarise import headings, prose, voted
from services.agent.types import SourceView
from services.inference.client import InferenceClient

SETS = ("textbooks", "wiki_leads", "design_docs")
PAIRS, WORDS = 1.5, 0.35
RIDGE = 0.3
Example = tuple[np.ndarray, np.ndarray]  # [sentences, features], [sentences]


def learn(n: int, asked: int, seed: int) -> None:
    picked = [(name, row) for name in SETS for row in chosen(name, n, seed)]
    views = [document(row.get("title") or name, row["document"]) for name, row in picked]
    examples = [example(view, row["summary"]) for view, (_, row) in zip(views, picked, strict=True)]
    found = fitted(examples)
    vote = weights()[MODEL] if not asked else vote_of(views, examples, found, asked, seed)
    made = dict(zip(SEEN, found, strict=True)) | {MODEL: vote}
    command = f"python -m lab.learn summaries --n {n} --asked {asked} --seed {seed}"
    origin = {"command": command, "chapters": len(picked), "sets": f"summ/{', '.join(SETS)} (train)"}
    WEIGHTS.write_text(
        json.dumps({"weights": {k: round(float(w), 3) for k, w in made.items()}} | origin, indent=1) + "\n"
    )
    print(WEIGHTS.read_text())


def chosen(name: str, n: int, seed: int) -> list[Row]:
    train = [row for row in rows(pack_file(f"summ/{name}")) if row["split"] == "train"]
    return random.Random(seed).sample(train, min(n, len(train)))


def example(view: SourceView, reference: str) -> Example:
    entry = view.outline[0]
    texts = [view.text[a:b] for a, b in prose(view, entry)]
    wanted = target(texts, reference)
    spread = wanted.std()
    return (
        seen(texts, entry.title, headings(view, entry), similarities(texts)),
        (wanted - wanted.mean()) / (spread if spread > 1e-9 else 1),
    )


@lru_cache(maxsize=1)
def stemmer() -> DefaultTokenizer:
    return DefaultTokenizer(True)


def target(texts: Sequence[str], reference: str) -> np.ndarray:
    """[N] what each sentence brings of the reference, as ROUGE counts words and pairs, less what its length costs."""
    wanted = stemmer().tokenize(reference)
    size = max(1, len(wanted))
    out = []
    for text in texts:
        said = stemmer().tokenize(text)
        ones, twos = common(said, wanted, 1), common(said, wanted, 2)
        out.append((ones + PAIRS * twos - WORDS * len(said)) / size)
    return np.array(out)


def common(said: Sequence[str], wanted: Sequence[str], size: int) -> int:
    runs = lambda words: Counter(zip(*[words[n:] for n in range(size)], strict=False))  # noqa: E731
    return sum((runs(said) & runs(wanted)).values())


def fitted(examples: Sequence[Example]) -> np.ndarray:
    """[features]: ridge regression, each chapter's sentences together weighing one."""
    width = examples[0][0].shape[1]
    square, right = RIDGE * np.eye(width), np.zeros(width)
    for features, wanted in examples:
        square += features.T @ features / len(wanted)
        right += features.T @ wanted / len(wanted)
    return np.linalg.solve(square, right)


def vote_of(
    views: Sequence[SourceView], examples: Sequence[Example], found: np.ndarray, asked: int, seed: int
) -> float:
    """How much more, in standard deviations, a sentence brings that the model chose."""
    numbers = random.Random(seed).sample(range(len(views)), min(asked, len(views)))
    with product() as client:
        votes = each(lambda n: asked_of(client, views[n]), numbers, lambda: None)
    rest = [
        (np.array([[1.0, v] for v in vote]), y - x @ found)
        for vote, (x, y) in zip(votes, (examples[n] for n in numbers), strict=True)
    ]
    return float(fitted(rest)[1])


def asked_of(client: InferenceClient, view: SourceView) -> list[float]:
    """1 for each sentence that the model chose, as the product asks it."""
    with session(client) as reading:
        read_source(client, view, reading)
        spans = voted(client, replace(view, engine_session=reading), 0)
    return [float(span in spans) for span in prose(view, view.outline[0])]
