"""Measure the model that ships: `python -m lab.evaluate [NAME...]`, through the engine, on splits no training saw.

Each measure returns {name: {value, n, ci95}}; lab/results/eval.json keeps the latest of each with its command.
"""

import json
import math
import random
import sys
import time
from pathlib import Path

from lab.corpus import held_out, text_of
from lab.made import needles_at
from lab.pack import PACK, rows
from lab.reader import Reader
from lab.scoring import best, exact, f1, mean
from lab.spans import grams, overlap, sentences
from lab.tables import definition
from lab.tokenizer import ANSWER, DOC, FILE, FIND, QUESTION, SUMMARY

OUT = Path("lab/results/eval.json")


def valid(name: str, count: int, seed: int = 1) -> list[dict]:
    found = [r for r in rows(PACK / f"{name}.jsonl.zst") if r["split"] == "valid"]
    random.Random(seed).shuffle(found)
    return found[:count]


def graded(name: str, said: list[str | None], picked: list[dict]) -> dict:
    """F1, exact match and refusals of answers to answerable questions."""
    return {
        f"{name}_f1": mean(
            [0.0 if s is None else best(f1, s, r["answers"]) for s, r in zip(said, picked, strict=True)]
        ),
        f"{name}_em": mean(
            [0.0 if s is None else best(exact, s, r["answers"]) for s, r in zip(said, picked, strict=True)]
        ),
        f"{name}_false_refusals": mean([float(s is None) for s in said]),
    }


def first(quotes: list[str] | None) -> str | None:
    return None if quotes is None else (quotes[0] if quotes else "")


def answers(reader: Reader, prompts: list[list[list[int]]], most: int = 64) -> list[str | None]:
    return [first(reader.quotes(said)) for said in reader.each(prompts, most)]


def paragraph(reader: Reader, text: str, question: str) -> list[list[int]]:
    """Two segments: the text, and the turn (format a)."""
    return [[DOC, *reader.ids(text)], [QUESTION, *reader.ids(question), ANSWER]]


def squad(reader: Reader, count: int = 500) -> dict:
    """A paragraph, then the question (format a); baselines on the same questions."""
    picked = valid("qa/squad", count)
    said = answers(reader, [paragraph(reader, r["context"], r["question"]) for r in picked])
    literal = [float(s is None or s in r["context"]) for s, r in zip(said, picked, strict=True)]
    found = graded("squad_paragraph", said, picked) | {"squad_literal_quotes": mean(literal)}
    for source in sorted({r["source"] for r in picked}):
        chosen = [(s, r) for s, r in zip(said, picked, strict=True) if r["source"] == source]
        found |= {
            k: v
            for k, v in graded(f"squad_paragraph.{source}", *map(list, zip(*chosen, strict=True))).items()
            if k.endswith("f1")
        }
    return found | baselines(picked)


def baselines(picked: list[dict]) -> dict:
    pick, spans, opening = random.Random(2), [], []
    for row in picked:
        words = row["context"].split()
        at = pick.randrange(len(words))
        spans.append(" ".join(words[at : at + pick.randrange(1, 6)]))
        start, end = sentences(row["context"])[0]
        opening.append(row["context"][start:end])
    return graded("baseline_random_span", spans, picked) | graded("baseline_first_sentence", opening, picked)


def turn(reader: Reader, row: dict, passages: list[str]) -> list[int]:
    question = [QUESTION, *reader.ids(row["question"])]
    return [*question, *(i for p in passages for i in (DOC, *reader.ids(p))), *question, ANSWER]


def neighbours(picked: list[dict]) -> dict[str, list[str]]:
    """Paragraphs of each article among the questions."""
    found: dict[str, list[str]] = {}
    for row in picked:
        found.setdefault(row["title"] or row["source"], []).append(row["context"])
    return {k: list(dict.fromkeys(v)) for k, v in found.items()}


def three_passages(row: dict, near: dict[str, list[str]], pick: random.Random, gold: bool = True) -> list[str]:
    others = [c for c in near[row["title"] or row["source"]] if c != row["context"]]
    shown = pick.sample(others, min(len(others), 2 if gold else 3)) + ([row["context"]] if gold else [])
    pick.shuffle(shown)
    return shown


def passages(reader: Reader, count: int = 500) -> dict:
    """The question, three passages of the article, the question again (format b)."""
    picked, pick = valid("qa/squad", count), random.Random(3)
    near = neighbours(valid("qa/squad", 10**6))
    said = answers(reader, [[turn(reader, r, three_passages(r, near, pick))] for r in picked])
    return graded("squad_passages", said, picked)


def long(reader: Reader, count: int = 40, size: int = 2000) -> dict:
    """The article read first, then the question with three passages (format b), and without any."""
    near, pick = neighbours(valid("qa/squad", 10**6)), random.Random(4)
    picked = [r for r in valid("qa/squad", 10**6) if r["title"] and len(near[r["title"]]) > 5][:count]
    bare, pointed = [], []
    for row in picked:
        article = [row["context"], *(c for c in near[row["title"]] if c != row["context"])]
        kept: list[str] = []
        while article and sum(map(len, kept)) < 4 * size:
            kept.append(article.pop(0))
        pick.shuffle(kept)
        seq = reader.open([DOC, *reader.ids("\n\n".join(kept))])
        bare.append(first(reader.quotes(reader.ask(seq, [QUESTION, *reader.ids(row["question"]), ANSWER]))))
        pointed.append(first(reader.quotes(reader.ask(seq, turn(reader, row, three_passages(row, near, pick))))))
        reader.engine.close(seq)
    return graded("squad_long_bare", bare, picked) | graded("squad_long_passages", pointed, picked)


def absent(reader: Reader, count: int = 200) -> dict:
    """Questions the text does not answer: after a paragraph of another article, and after three of the same article."""
    picked, pick = valid("qa/squad", count), random.Random(5)
    strangers = valid("qa/squad", 10**6, seed=9)
    near = neighbours(strangers)

    def alien(row):
        return next(
            s
            for s in iter(lambda: pick.choice(strangers), None)
            if (s["title"], s["source"]) != (row["title"], row["source"])
        )

    alone = answers(reader, [paragraph(reader, r["context"], alien(r)["question"]) for r in picked])
    titled = [r for r in picked if r["title"]]
    hard = answers(reader, [[turn(reader, r, three_passages(r, near, pick, gold=False))] for r in titled])
    return {
        "absent_paragraph_said_so": mean([float(s is None) for s in alone]),
        "absent_same_article_said_so": mean([float(s is None) for s in hard]),
    }


def needle(reader: Reader, lengths: tuple[int, ...] = (1000, 4000, 8000), texts: int = 6) -> dict:
    """Five facts in held-out articles at five depths; each is asked for."""
    pick, found = random.Random(6), {}
    filler = [reader.ids(t) for t in held_texts("wiki", 60)]
    for length in lengths:
        hits: dict[int, list[float]] = {}
        for _ in range(texts):
            ids, asked = needles_at(filler, length, pick, reader.tokenizer)
            seq = reader.open([DOC, *ids])
            for depth, question, answer in asked:
                said = first(reader.quotes(reader.ask(seq, [QUESTION, *reader.ids(question), ANSWER])))
                hits.setdefault(depth, []).append(float(said is not None and said == answer.strip()))
            reader.engine.close(seq)
        found[f"needle_{length}"] = mean([h for v in hits.values() for h in v])
        found |= {f"needle_{length}.depth_{d}": mean(v) for d, v in sorted(hits.items())}
    return found


def held_texts(kind: str, count: int) -> list[str]:
    texts = []
    for path in sorted((PACK / "corpus").glob(f"{kind}-*.zst")):
        part = f"/{path.name}"
        texts += [text_of(r | {"part": part}) for r in rows(path) if held_out(r)]
    return sorted(texts)[:count] if len(texts) <= count else random.Random(8).sample(sorted(texts), count)


def perplexity(reader: Reader, texts: int = 8, size: int = 1000) -> dict:
    """Bits per byte of held-out text: the mean over texts of each kind."""
    found = {}
    for kind in ("wiki", "docs", "code"):  # the hash held out no book
        bits, tokens, nats = [], 0, 0.0
        for text in held_texts(kind, texts):
            ids = reader.ids(text[: size * 4])[:size]
            loss = -sum(reader.logprobs([FILE if kind == "code" else DOC, *ids]))
            bits.append(loss / math.log(2) / len(reader.tokenizer.decode(ids).encode()))
            tokens, nats = tokens + len(ids), nats + loss
        found[f"bits_per_byte.{kind}"] = mean(bits, 1) | {
            "tokens": tokens,
            "perplexity": round(math.exp(nats / tokens), 2),
        }
    return found


def find(reader: Reader, count: int = 50) -> dict:
    """A description and three functions of a repository never trained on: the line of the right definition."""
    everything = [r for r in valid("repoqa/functions", 10**6) if len(r["description"]) > 15 and definition(r["code"])]
    pick, prompts, wanted = random.Random(7), [], []
    for row in everything[:count]:
        others = [r for r in everything if r["repo"] == row["repo"] and r["name"] != row["name"]]
        shown = [*pick.sample(others, 2), row]
        pick.shuffle(shown)
        ids = [FIND, *reader.ids(row["description"][:300])]
        prompts.append(
            [
                [
                    *ids,
                    *(i for r in shown for i in (FILE, *reader.ids(r["path"] + "\n" + r["code"][:1600]))),
                    *ids,
                    ANSWER,
                ]
            ]
        )
        start, length = definition(row["code"])
        wanted.append(row["code"][start : start + length].strip())
    hits = [float(said == line) for said, line in zip(answers(reader, prompts), wanted, strict=True)]
    return {"find_definition_of_three": mean(hits)}


def summary(reader: Reader, count: int = 16) -> dict:
    """Chosen sentences against the reference summary (F1 of words and word pairs); the first two; two at random."""
    picked = valid("summ/wiki_leads", count // 2) + valid("summ/textbooks", count // 2)
    scores: dict[str, list[float]] = {"model": [], "first_two": [], "random_two": [], "literal": []}
    pick = random.Random(9)
    for row in picked:
        document, wanted = row["document"][:5000], grams(row["summary"])
        seq = reader.open([DOC, *reader.ids(document)])
        quotes = reader.quotes(reader.ask(seq, [SUMMARY], 240)) or []
        reader.engine.close(seq)
        spans = [document[a:b] for a, b in sentences(document)]
        scores["model"].append(overlap(grams(" ".join(quotes)), wanted))
        scores["first_two"].append(overlap(grams(" ".join(spans[:2])), wanted))
        scores["random_two"].append(overlap(grams(" ".join(pick.sample(spans, min(2, len(spans))))), wanted))
        scores["literal"] += [float(q in document) for q in quotes]
    return {f"summary_{k}": mean(v) for k, v in scores.items() if v}


MEASURES = [squad, absent, passages, needle, find, perplexity, long, summary]


def main(names: list[str]) -> None:
    reader = Reader("lab/model", threads=1)
    for measure in MEASURES:
        if names and measure.__name__ not in names:
            continue
        began = time.time()
        found = measure(reader)
        command = f"python -m lab.evaluate {measure.__name__}"
        kept = json.loads(OUT.read_text()) if OUT.exists() else {}
        OUT.write_text(json.dumps(kept | {k: v | {"command": command} for k, v in found.items()}, indent=1))
        for name, value in found.items():
            print(f"{name:44} {value['value']:8} {value['ci95']} n={value['n']}", flush=True)
        print(f"-- {measure.__name__}: {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
