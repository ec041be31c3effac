"""Tasks with rows: human and template questions on paragraphs, whole articles and passages; summaries; functions."""

import numpy as np

from lab.cloze import thinned
from lab.pieces import READ, SAY, Piece, Tokens, Turn, document, length, occurs, quoted, special, turn
from lab.running import RunningText, between
from lab.stored import Tables
from lab.swap import drawn, swapped
from lab.tokenizer import END, FILE, FIND, SUMMARY

LEFT_OUT = (0.0, 0.0, 0.0, 0.08, 0.15)  # shares of a human question's tokens that are left out


def once(turns: list[Turn]) -> list[Turn]:
    """No question twice."""
    return list({question.tobytes(): (question, answer) for question, answer in turns}.values())


class Asking(RunningText):
    """Draws from the tables; `sources` says how often a question is of which set."""

    def __init__(self, tables: Tables, corpus, sources: dict[str, float]):
        super().__init__(corpus)
        self.tables, self.swap_share, self.left_out = tables, 0.5, LEFT_OUT
        self.sources = {s: w for s, w in sources.items() if s in tables.by_source}

    # -- questions on contexts ----------------------------------------------------------------------------------
    def context(self, *among: str) -> int:
        sources = {s: w for s, w in self.sources.items() if not among or s in among} or self.sources
        source = self.pick.choices(list(sources), list(sources.values()))[0]
        return int(self.pick.choice(self.tables.by_source[source]))

    def question(self, context: int) -> tuple[Tokens, Tokens]:
        row = self.tables.qa[self.pick.choice(self.tables.by_context[context])]
        return self.tables.text(row[1]), self.tables.text(row[2])

    def stranger(self, article: int) -> Tokens:
        """A question on another article."""
        while True:
            context = self.context()
            if self.tables.article_of(context) != article or len(self.tables.by_article) == 1:
                return self.question(context)[0]

    def missed(self, context: int, shown: Tokens) -> Tokens | None:
        """A question on another paragraph of the article, whose answer is not in what is shown."""
        near = self.tables.by_article[self.tables.article_of(context)]
        for other in self.pick.sample(near.tolist(), min(4, len(near))):
            question, answer = self.question(other)
            if other != context and not occurs(answer, shown):
                return question
        return None

    def about_others(self, texts: list[Tokens], turns: list[Turn]) -> tuple[list[Tokens], list[Turn]]:
        """Half the time the same with names exchanged; turns whose answer is then not literal are left out.

        Some questions lose a word, so that a question seen often is not known by heart.
        """
        if self.pick.random() < self.swap_share:
            asked = [t for q, a in turns for t in (q, a) if isinstance(t, np.ndarray)]
            swaps = drawn(asked, self.tables.text(self.context()), self.vocab, self.pick)
            texts = [swapped(t, swaps, self.vocab) for t in texts]
            turns = [
                (swapped(q, swaps, self.vocab), None if a is None else swapped(a, swaps, self.vocab)) for q, a in turns
            ]
        turns = [(q, a) for q, a in turns if a is None or any(occurs(a, t) for t in texts)]
        return texts, [(thinned(q, self.pick, self.left_out), a) for q, a in turns]

    def ask(self, limit: int) -> list[Piece]:
        """A paragraph and questions on it, or one before it and after; now and then one that it does not answer."""
        context = self.context()
        text, turns = self.tables.text(context), []
        for _ in range(self.pick.choice([1, 1, 2, 3, 4])):
            turns.append(self.question(context))
            if self.pick.random() < 0.2:
                near = self.missed(context, text) if self.pick.random() < 0.7 else None
                turns[-1] = (self.stranger(self.tables.article_of(context)) if near is None else near, None)
        (text,), turns = self.about_others([text], once(turns))
        return self.before_or_after(text, turns, limit)

    # -- questions behind a long reading ------------------------------------------------------------------------
    def block(self, context: int, size: int) -> list[int]:
        """Paragraphs of the context's article around it, in their order, of at most `size` tokens, or it alone."""
        article = self.tables.by_article[self.tables.article_of(context)].tolist()
        first = last = article.index(context)
        room = size - len(self.tables.text(context))
        while last - first + 1 < len(article):
            back = last + 1 == len(article) or (first > 0 and self.pick.random() < 0.5)
            room -= len(self.tables.text(article[first - 1 if back else last + 1])) + 1
            if room < 0:
                break
            first, last = (first - 1, last) if back else (first, last + 1)
        return article[first : last + 1]

    def article(self, limit: int) -> list[Piece]:
        """An article or story, alone or within a long document; questions on any of it, some on what was left out."""
        context = self.context() if self.pick.random() < 0.3 else self.context("squad", "fairytaleqa")
        size = between(min(500, limit // 2), limit * 3 // 4, self.pick)
        shown = self.block(context, size)
        taken = shown.pop(self.pick.randrange(len(shown))) if len(shown) > 3 and self.pick.random() < 0.6 else None
        texts = [self.tables.text(c) for c in shown]
        whole = self.surrounded(texts, size - sum(map(len, texts)))
        turns: list[Turn] = [self.question(self.pick.choice(shown)) for _ in range(min(12, 2 + size // 300))]
        if taken is not None:
            turns += [(q, None) for q, a in (self.question(taken) for _ in range(2)) if not occurs(a, whole)]
        elif self.pick.random() < 0.3:
            turns.append((self.stranger(self.tables.article_of(context)), None))
        turns = self.shuffled(once(turns))
        (whole,), turns = self.about_others([whole], turns)
        return self.within(whole, turns, limit)

    def surrounded(self, texts: list[Tokens], room: int) -> Tokens:
        """The paragraphs one after another; where there is room, within a stretch of one document."""
        line = self.vocab.encode("\n\n")
        body = np.concatenate([piece for text in texts for piece in (text, line)])
        if room < 200:
            return body
        around = self.stretch(room)
        breaks = np.flatnonzero(self.vocab.newline[around]) + 1
        at = int(self.pick.choice(breaks)) if len(breaks) else 0
        return np.concatenate([around[:at], body, around[at:]])

    # -- questions with passages --------------------------------------------------------------------------------
    def others(self, context: int, count: int, room: int, near_share: float) -> list[int]:
        """Other contexts, of the same article or of any, that fit the room."""
        article = self.tables.article_of(context)
        near = [c for c in self.tables.by_article[article].tolist() if c != context]
        near = self.pick.sample(near, min(len(near), count if self.pick.random() < near_share else 0))
        far = [c for c in (self.context() for _ in range(count - len(near))) if self.tables.article_of(c) != article]
        kept = []
        for c in dict.fromkeys([*near, *far]):
            room -= len(self.tables.text(c))
            if room > 0:
                kept.append(c)
        return kept

    def point(self, limit: int) -> list[Piece]:
        """Passages where retrieval points, the question before and after; a long text read first, or not."""
        context, absent, whole = self.context(), self.pick.random() < 0.3, self.pick.random() < 0.25
        question, answer = self.question(context)
        gold = self.tables.text(context)
        room = limit - len(gold) - 300
        near = self.others(context, self.pick.randrange(1, 5), min(room // 2, 1600), 0.8 if absent else 0.6)
        texts = [self.tables.text(c) for c in near] or [self.stretch(between(60, 200, self.pick))]
        if absent:
            texts = [t for t in texts if not occurs(answer, t)] or [self.stretch(64)]
        else:
            texts.insert(self.pick.randrange(len(texts) + 1), gold)
        texts, turns = self.about_others(texts, [(question, None if absent else answer)])
        pieces = [piece for q, a in turns for piece in turn(q, a, texts)]
        left = limit - length(pieces) - 10
        if whole and left > 600 and turns:
            read = self.surrounded(self.shuffled(texts), between(300, left - sum(map(len, texts)), self.pick))
            pieces = [*document(read[: left - 1]), *pieces]
        return pieces or self.ask(limit)

    def shuffled(self, items: list) -> list:
        return self.pick.sample(items, len(items))

    # -- summaries and functions --------------------------------------------------------------------------------
    def summarise(self, limit: int) -> list[Piece]:
        row = self.tables.summaries[self.pick.randrange(len(self.tables.summaries))]
        quotes = quoted([self.tables.text(number) for number in row[2:] if number >= 0])
        return [*document(self.tables.text(row[0])), (special(SUMMARY), READ), *quotes, (special(END), SAY)]

    def find(self, limit: int) -> list[Piece]:
        """A description and one to forty functions of a repository, shown or read before; mostly one is meant."""
        row = self.tables.find[self.pick.randrange(len(self.tables.find))]
        description, code, line = (self.tables.text(n) for n in row[:3])
        room = min(limit - 2 * len(description) - len(code) - len(line) - 20, between(300, max(limit, 301), self.pick))
        near = []
        for i in self.pick.choices(self.tables.by_repo[row[3]].tolist(), k=between(1, 40, self.pick)):
            other = self.tables.text(self.tables.find[i, 1])
            room -= len(other) + 1
            if room > 0 and self.tables.find[i, 0] != row[0] and self.tables.find[i, 1] != row[1]:
                near.append(other)
        absent = bool(near) and self.pick.random() < 0.12
        shown = self.shuffled(near if absent else [*near, code])
        answer = None if absent else line
        if self.pick.random() < 0.3:
            return [p for text in shown for p in document(text, FILE)] + turn(description, answer, (), FIND, FILE)
        return turn(description, answer, shown, FIND, FILE)
