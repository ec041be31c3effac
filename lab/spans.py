"""Where an answer lies in a text, and how its quotation is cut.

A quote is a literal stretch of the text. If one space stands before it, the quote takes that space along: then its
tokens are the very tokens the reader saw, and copying is exact. Strip it for display.
"""

import itertools
import re
from collections import Counter

SENTENCE_END = re.compile(r"(?<=[.!?])[”\"’')]*\s+(?=[A-Z0-9“\"'(])|\n+")
WORD = re.compile(r"\w+")


def quote(text: str, start: int, length: int) -> str:
    """The literal stretch, with the one space before it if there is one."""
    if start > 0 and text[start - 1] == " " and not text[start].isspace():
        start, length = start - 1, length + 1
    return text[start : start + length]


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence of the text, white space around it left out."""
    found, start = [], 0
    for gap in [*SENTENCE_END.finditer(text), None]:
        end = gap.start() if gap else len(text)
        while gap and end < gap.end() and not text[end].isspace():
            end += 1  # closing quotation marks belong to the sentence
        if text[start:end].strip():
            found.append((start, end))
        start = gap.end() if gap else end
    return found


def grams(text: str) -> Counter:
    words = WORD.findall(text.lower())
    return Counter(words) + Counter(itertools.pairwise(words))


def overlap(picked: Counter, wanted: Counter) -> float:
    """F1 over words and word pairs (ROUGE-1 and -2 in one)."""
    common = sum((picked & wanted).values())
    return 2 * common / max(1, sum(picked.values()) + sum(wanted.values()))


def best_sentences(text: str, reference: str, most: int = 4) -> list[tuple[int, int]]:
    """Greedily the sentences that together are nearest to the reference, in the order of the text."""
    wanted, picked, chosen, score = grams(reference), Counter(), [], 0.0
    spans = [s for s in sentences(text) if 40 <= s[1] - s[0] <= 500]
    bags = {span: grams(text[span[0] : span[1]]) for span in spans}
    while spans and len(chosen) < most:
        best = max(spans, key=lambda s: overlap(picked + bags[s], wanted))
        gain = overlap(picked + bags[best], wanted)
        if gain <= score + 0.005:
            break
        score, picked = gain, picked + bags[best]
        chosen.append(best)
        spans.remove(best)
    return sorted(chosen)
