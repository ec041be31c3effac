"""BM25 over blocks, in memory: stop words out, stems, accents off; adjacent blocks become one passage."""

from collections.abc import Sequence
from functools import lru_cache

import tantivy

from services.agent.types import Hit, SourceView
from services.ingest.types import Block

PASSAGE_CHARS = 700  # a hit grows by its neighbours up to here: lines of dialogue say little alone
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
            writer.add_document(tantivy.Document(words=words, row=number))
        writer.commit()
        self.index.reload()

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """(row, score), best first."""
        terms = dict.fromkeys(self.terms(query))
        wanted = [(tantivy.Occur.Should, tantivy.Query.term_query(self.schema, "words", t, "freq")) for t in terms]
        if not wanted or limit < 1:
            return []
        searcher = self.index.searcher()
        found = searcher.search(tantivy.Query.boolean_query(wanted), limit).hits
        return [(searcher.doc(address)["row"][0], score) for score, address in found]

    def terms(self, query: str) -> list[str]:
        """The question's own words; words of asking only when there is nothing else."""
        telling = " ".join(w for w in query.split() if w.strip("?.,!").lower() not in ASKING)
        return analyser().analyze(telling) or analyser().analyze(query)


@lru_cache(maxsize=8)
def index_of(rows: tuple[str, ...]) -> Index:
    return Index(rows)


def retrieve(views: Sequence[SourceView], query: str, limit: int = 5) -> list[Hit]:
    """Passages that share most with the query, best first, over all views at once."""
    rows = [(view, block) for view in views for block in view.blocks if block.text.strip()]
    index = index_of(tuple(block.text for _, block in rows))
    hits: list[Hit] = []
    for row, score in index.search(query, 3 * limit):
        view, block = rows[row]
        add(hits, Hit(grown(view, block), view.id, score), view)
    return hits[:limit]


def add(hits: list[Hit], new: Hit, view: SourceView) -> None:
    """Into the list; a passage that touches one already there joins it, which keeps its rank."""
    for n, hit in enumerate(hits):
        if hit.source_id == new.source_id and touches(hit.block, new.block):
            if hit.block.char[1] - hit.block.char[0] < 2 * PASSAGE_CHARS:
                hits[n] = Hit(merged(view, hit.block, new.block), hit.source_id, hit.score)
            return
    hits.append(new)


def touches(one: Block, other: Block) -> bool:
    same = (one.path, one.chapter) == (other.path, other.chapter)
    return same and one.char[0] <= other.char[1] and other.char[0] <= one.char[1]


def grown(view: SourceView, block: Block) -> Block:
    """The block with what stands after and before it, in turn, within its chapter."""
    first = last = block.ordinal - view.blocks[0].ordinal
    size, after = len(block.text), True
    stuck = 0
    while size < PASSAGE_CHARS and stuck < 2:
        near = last + 1 if after else first - 1
        if 0 <= near < len(view.blocks) and joins(block, view.blocks[near], size):
            first, last, size, stuck = min(first, near), max(last, near), size + len(view.blocks[near].text), 0
        else:
            stuck += 1
        after = not after
    return merged(view, view.blocks[first], view.blocks[last])


def joins(block: Block, near: Block, size: int) -> bool:
    same = (block.path, block.chapter) == (near.path, near.chapter)
    return same and near.kind != "heading" and size + len(near.text) <= 2 * PASSAGE_CHARS


def merged(view: SourceView, one: Block, other: Block) -> Block:
    """One block from the first of the two to the last."""
    head = one if one.char[0] <= other.char[0] else other
    a, b = head.char[0], max(one.char[1], other.char[1])
    line = head.line[0], max(one.line[1], other.line[1])
    return Block(head.ordinal, head.kind, view.text[a:b], (a, b), line, head.page, head.path, head.chapter)
