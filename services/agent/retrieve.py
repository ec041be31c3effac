"""BM25 over blocks, in memory: stop words out, stems, accents off; adjacent blocks become one passage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import tantivy

from services.agent.types import Hit, SourceView
from services.ingest.types import Block

PASSAGE_CHARS = 450  # a hit grows by its neighbours up to here: lines of dialogue say little alone
LONGEST_PASSAGE = 1_000
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+")  # kana, Han, Thai
HEAP = 15_000_000  # bytes, tantivy's least
ASKING = frozenset(
    """what which who whom whose when where why how does did do is are was were has have had can could would should
    many much tell give find say says said according""".split()  # noqa: SIM905  words read best as words
)


@lru_cache(maxsize=1)
def analyser() -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.remove_long(60),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
        tantivy.Filter.stopword("english"),
        tantivy.Filter.stemmer("english"),
    ):
        builder = builder.filter(step)
    return builder.build()


def spread(text: str) -> str:
    """Scripts without spaces as overlapping pairs of characters."""
    pairs = lambda run: " ".join(run[0][n : n + 2] for n in range(max(1, len(run[0]) - 1)))  # noqa: E731
    return UNSPACED.sub(lambda run: f" {pairs(run)} ", text)


def terms(query: str) -> list[str]:
    """The stems of the question's own words; words of asking only when there is nothing else."""
    query = spread(query)
    telling = " ".join(w for w in query.split() if w.strip("?.,!").lower() not in ASKING)
    return analyser().analyze(telling) or analyser().analyze(query)


class Index:
    """One tantivy index over rows of text; a row is named by its number."""

    def __init__(self, rows: Sequence[str]):
        fields = tantivy.SchemaBuilder()
        fields.add_text_field("words", tokenizer_name="shiori", index_option="freq")
        fields.add_unsigned_field("row", stored=True)
        self.schema = fields.build()
        self.index = tantivy.Index(self.schema)
        self.index.register_tokenizer("shiori", analyser())
        writer = self.index.writer(HEAP, 1)
        for number, words in enumerate(rows):
            writer.add_document(tantivy.Document(words=spread(words), row=number))
        writer.commit()
        self.index.reload()

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """(row, score), best first."""
        asked = dict.fromkeys(terms(query))
        wanted = [(tantivy.Occur.Should, tantivy.Query.term_query(self.schema, "words", t, "freq")) for t in asked]
        if not wanted or limit < 1:
            return []
        searcher = self.index.searcher()
        found = searcher.search(tantivy.Query.boolean_query(wanted), limit).hits
        return [(searcher.doc(address)["row"][0], score) for score, address in found]


@lru_cache(maxsize=8)
def index_of(rows: tuple[str, ...]) -> Index:
    return Index(rows)


def retrieve(views: Sequence[SourceView], query: str, limit: int = 5) -> list[Hit]:
    """Passages that share most with the query, best first, over all views at once. No two overlap."""
    rows = [(view, n) for view in views for n, block in enumerate(view.blocks) if block.text.strip()]
    index = index_of(tuple(view.blocks[n].text for view, n in rows))
    found = [(*rows[row], score) for row, score in index.search(query, 3 * limit)]
    passages: list[Passage] = []
    for view, n, score in found:
        if not any(p.view is view and p.first <= n <= p.last for p in passages):
            grow(Passage(view, n, n, score), passages)
    hits = [Hit(merged(p.view, p.first, p.last), p.view.id, p.score) for p in passages if p.telling()]
    return hits[:limit]


def whole(view: SourceView) -> Hit:
    """All of a view as one passage."""
    return Hit(merged(view, 0, len(view.blocks) - 1), view.id, 0.0)


@dataclass
class Passage:
    """Blocks first to last of a view."""

    view: SourceView
    first: int
    last: int
    score: float

    def size(self) -> int:
        return self.view.blocks[self.last].char[1] - self.view.blocks[self.first].char[0]

    def telling(self) -> bool:
        """Not a title alone."""
        return self.first < self.last or self.view.blocks[self.first].kind != "heading"


def grow(new: Passage, others: list[Passage]) -> None:
    """Takes in what stands after and before, in turn; a short passage that it then touches it joins, else the list."""
    others_here = [p for p in others if p.view is new.view]
    after, stuck = True, 0
    while new.size() < PASSAGE_CHARS and stuck < 2:
        near = new.last + 1 if after else new.first - 1
        if fits(new, near, others_here):
            new.first, new.last, stuck = min(new.first, near), max(new.last, near), 0
        else:
            stuck += 1
        after = not after
    beside = [p for p in others_here if touch(p, new) and p.size() + new.size() <= LONGEST_PASSAGE]
    if beside:
        beside[0].first, beside[0].last = min(beside[0].first, new.first), max(beside[0].last, new.last)
    else:
        others.append(new)


def fits(new: Passage, near: int, others: Sequence[Passage]) -> bool:
    """A block of the same chapter, not a heading, not too long, in no other passage."""
    blocks = new.view.blocks
    if not 0 <= near < len(blocks) or any(p.first <= near <= p.last for p in others):
        return False
    block, home = blocks[near], blocks[new.first]
    same = (block.path, block.chapter) == (home.path, home.chapter) and block.kind != "heading"
    return same and new.size() + len(block.text) <= LONGEST_PASSAGE


def touch(one: Passage, other: Passage) -> bool:
    blocks = one.view.blocks
    near = one.last + 1 == other.first or other.last + 1 == one.first
    return near and blocks[one.first].chapter == blocks[other.first].chapter


def merged(view: SourceView, first: int, last: int) -> Block:
    """One block from the first to the last."""
    head, tail = view.blocks[first], view.blocks[last]
    a, b = head.char[0], tail.char[1]
    line = head.line[0], tail.line[1]
    return Block(head.ordinal, head.kind, view.text[a:b], (a, b), line, head.page, head.path, head.chapter)
