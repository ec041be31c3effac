"""Chapters summarised by quotes, the product's way, against their reference: ROUGE-1, -2 and -L (F, stemmed).

Beside it: the first three sentences (LEAD-3), three by LexRank (the library's, continuous; word frequencies of the
chapters measured) and three by services/agent/central.py; of each as many sentences as the product chose (`.same`),
and as many as come nearest to its number of words (`.words`). Differences are paired: the interval is the bootstrap's
over the chapters. All choose among the same sentences.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from lexrank import STOPWORDS, LexRank
from rouge_score.rouge_scorer import RougeScorer

from lab.eval.asking import each, session
from lab.eval.items import document, sample, valid
from lab.eval.run import Figures, Run, percent
from lab.scoring import gain, mean
from services.agent import Summary, read_source, summarise_chapter
from services.agent.central import central
from services.agent.summarise import prose
from services.agent.types import SourceView
from services.inference.client import InferenceClient

SETS = ("textbooks", "wiki_leads", "design_docs")
ROUGES = ("rouge1", "rouge2", "rougeL")
LEAD = 3
Scores = dict[str, dict[str, float]]  # by summary; by ROUGE, 0 to 1, and how many words


def measure(run: Run) -> Figures:
    picked = [(name, row) for name in SETS for row in sample(valid(f"summ/{name}"), run.n // len(SETS), run.seed)]
    views = [document(row.get("title") or name, row["document"]) for name, row in picked]
    run.total(len(picked))
    ranker = LexRank([pool(view) for view in views], stopwords=STOPWORDS["en"])
    work = list(zip(views, (row["summary"] for _, row in picked), strict=True))
    told = each(lambda one: summarised(run.client, ranker, *one), work, run.step)
    out: Figures = {}
    for part in ("", *SETS):
        chosen = [scores for (name, _), (scores, _) in zip(picked, told, strict=True) if part in ("", name)]
        out |= figures(f"summaries.{part}".rstrip("."), chosen, differences=not part) if chosen else {}
    by_model = [float(summary.method != "lexical") for _, summary in told]
    out["summaries.sentences"] = mean([len(s.quotes) for _, s in told], 1) | {"unit": "sentences"}
    return out | {"summaries.chosen_by_model": percent(by_model), "summaries.literal": percent(verbatim(told))}


def verbatim(told: Sequence[tuple[Scores, Summary]]) -> list[float]:
    return [float(q.match == "exact") for _, summary in told for q in summary.quotes]


def pool(view: SourceView) -> list[str]:
    return [view.text[a:b] for a, b in prose(view, view.outline[0])]


def summarised(client: InferenceClient, ranker: LexRank, view: SourceView, reference: str) -> tuple[Scores, Summary]:
    with session(client) as reading:
        read_source(client, view, reading)
        made = summarise_chapter(client, replace(view, engine_session=reading), 0)
    texts = {"product": [q.text for q in made.quotes]} | others(pool(view), [q.text for q in made.quotes], ranker)
    return {way: rouge(reference, " ".join(chosen)) for way, chosen in texts.items()}, made


def others(said: list[str], shown: list[str], ranker: LexRank) -> dict[str, list[str]]:
    """By way and length, the sentences of each."""
    orders = {"lead": list(range(len(said))), "lexrank": ranked(said, ranker), "central": central(said, len(said))}
    out = {}
    for way, order in orders.items():
        counts = {"3": LEAD, "same": len(shown), "words": nearest([said[n] for n in order], count_words(shown))}
        out |= {f"{way}.{suffix}": [said[n] for n in sorted(order[:count])] for suffix, count in counts.items()}
    return out


def nearest(ordered: Sequence[str], words: int) -> int:
    """How many of the first sentences come nearest to so many words; of two the longer."""
    return min(range(len(ordered), -1, -1), key=lambda count: abs(count_words(ordered[:count]) - words))


def count_words(said: Sequence[str]) -> int:
    return sum(len(words.split()) for words in said)


def ranked(said: list[str], ranker: LexRank) -> list[int]:
    """Numbers of the sentences, the most central first."""
    scores = ranker.rank_sentences(said, threshold=None, fast_power_method=False)
    return sorted(range(len(said)), key=lambda n: -scores[n])


@lru_cache(maxsize=1)
def scorer() -> RougeScorer:
    return RougeScorer(list(ROUGES), use_stemmer=True)


def rouge(reference: str, made: str) -> dict[str, float]:
    scores = {name: float(score.fmeasure) for name, score in scorer().score(reference, made).items()}
    return scores | {"words": float(len(made.split()))}


def figures(name: str, told: Sequence[Scores], differences: bool) -> Figures:
    """Means of every way; how much better the product is, chapter by chapter."""
    out: Figures = {
        f"{name}.{way}.words": mean([s[way]["words"] for s in told], 1) | {"unit": "words"} for way in told[0]
    }
    for kind in ROUGES:
        for way in told[0]:
            out[f"{name}.{way}.{kind}"] = mean([scores[way][kind] for scores in told]) | {"unit": "F x 100"}
            if differences and way != "product":
                better = [scores["product"][kind] - scores[way][kind] for scores in told]
                out[f"{name}.over.{way}.{kind}"] = gain(better) | {"unit": "F x 100, difference"}
    return out
