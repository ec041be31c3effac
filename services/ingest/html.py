"""HTML to a draft: the words in reading order, one paragraph per block element; scripts, styles and navigation out."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.ingest.chapters import back_matter, body_of, drop_contents, find_chapters, tidy
from services.ingest.decode import decode, decodes, normalise
from services.ingest.draft import Draft, Heading
from services.ingest.plain import GUTENBERG_TITLE, stem
from services.ingest.types import IngestError

UNREAD = """head script style nav template noscript svg iframe object embed audio video canvas map button select
    textarea input dialog menu rp rt"""
BLOCKS = """html body p div section article main header footer aside address blockquote center figure figcaption details
    summary ul ol dl li dt dd table caption thead tbody tfoot tr pre hr hgroup h1 h2 h3 h4 h5 h6 fieldset legend form"""
SKIP, BLOCK = set(UNREAD.split()), set(BLOCKS.split())
CLOSE = {"li", "dt", "dd", "tr", "thead", "tbody", "tfoot"}  # set apart by one newline, not by an empty line
HEADINGS = {f"h{n}": n for n in range(1, 7)}
SPACES = re.compile(r"[ \t\n\r\f\xa0]+")
INVISIBLE = str.maketrans("", "", "\u00ad\u2060\u200b\ufeff")
META_CHARSET = re.compile(rb"<(?:meta[^>]*charset|\?xml[^>]*encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.I)
TAG = re.compile(
    r"<(/?)(?!(?:p|li|t[drh]|dt|dd|tbody|thead|tfoot|option|br|hr|img|meta|link|input|col|wbr|area|base|source)\b)"
    r"[a-z][a-z0-9:-]*(?![^<>]*/>)",
    re.I,
)
CONTENTS = re.compile(r"(?i)(table of )?contents\.?$")
DEEPEST = 4_000


class Writer:
    """Collects inline text, writes it out as a paragraph when a block begins or ends."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.size = 0
        self.inline: list[str] = []
        self.gap = ""  # what separates the next paragraph from the last
        self.bullet = ""
        self.headings: list[Heading] = []
        self.codes: list[tuple[int, int]] = []
        self.anchors: dict[str, int] = {}  # element id -> char
        self.waiting: list[str] = []  # ids opened since the last text

    def flush(self, gap: str = "\n\n") -> tuple[int, int]:
        """Ends the paragraph; its span is (start, end), empty when there were no words."""
        text = "\n".join(SPACES.sub(" ", line).strip() for line in "".join(self.inline).split("\x00")).strip("\n")
        self.inline = []
        span = self.write(text) if text.strip() else (self.size, self.size)
        self.gap = wider(self.gap, gap) if self.size else ""
        return span

    def write(self, text: str) -> tuple[int, int]:
        text = self.bullet + text
        self.append(self.gap)
        self.gap = self.bullet = ""
        for name in self.waiting:
            self.anchors.setdefault(name, self.size)
        self.waiting = []
        start = self.size
        self.append(text)
        return start, self.size

    def append(self, text: str) -> None:
        self.parts.append(text)
        self.size += len(text)

    def heading(self, level: int) -> None:
        start, end = self.flush()
        if end > start:
            title = tidy("".join(self.parts[-1:]))[:300]
            self.headings.append(Heading(title, level, start, end))

    def preformatted(self, text: str) -> None:
        self.flush()
        text = text.strip("\n").rstrip()
        if text:
            self.codes.append(self.write(text))
        self.gap = "\n\n" if self.size else ""

    def break_document(self) -> int:
        """Ends a file of a book; the char at which the next one will begin."""
        self.flush()
        for name in self.waiting:
            self.anchors.setdefault(name, self.size)
        self.waiting = []
        return self.size + len(self.gap)

    def text(self) -> str:
        return "".join(self.parts) + ("\n" if self.size else "")


def wider(a: str, b: str) -> str:
    return a if len(a) > len(b) else b


def read_html(data: bytes, filename: str) -> Draft:
    source = decode_html(data, filename)
    writer = Writer()
    tree = parse_html(source, filename)
    write_tree(tree, writer, filename)
    text = writer.text()
    if not text.strip():
        raise IngestError("empty", f"{filename} holds no readable text: only markup. Save the page with its text.")
    draft = Draft(title_of_page(tree, text, filename), text, writer.headings, codes=writer.codes)
    draft.marks = marks_of(text, writer.headings)
    return draft


def title_of_page(tree: LexborHTMLParser, text: str, filename: str) -> str:
    field = GUTENBERG_TITLE.search(text, 0, 4000)
    node = tree.css_first("title")
    return field[1].strip() if field else (tidy(node.text())[:300] if node else "") or stem(filename)


def decode_html(data: bytes, name: str) -> str:
    """By byte order mark, else as the page declares, else by its bytes."""
    declared = META_CHARSET.search(data[:4096])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) and b"\0" not in data:
        encoding = declared[1].decode("ascii").lower()
        encoding = "cp1252" if encoding in ("iso-8859-1", "latin-1", "us-ascii", "ascii") else encoding
        if not encoding.startswith("utf-16") and decodes(data, encoding):
            return normalise(data.decode(encoding))
    return normalise(decode(data, name))


def parse_html(source: str, name: str) -> LexborHTMLParser:
    check_depth(source, name)
    try:
        return LexborHTMLParser(source)
    except Exception as error:
        raise IngestError("bad_html", f"{name} cannot be parsed as HTML ({error}). Save the page again.") from None


def check_depth(source: str, name: str) -> None:
    """Before parsing, whose time grows with the square of the depth; tags that are often left open do not count."""
    depth = 0
    for tag in TAG.finditer(source):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        if depth > 4 * DEEPEST:
            raise too_deep(name)


def too_deep(name: str) -> IngestError:
    return IngestError("too_deep", f"{name} nests its elements over {DEEPEST:,} deep. Save a plainer page.")


def write_tree(tree: LexborHTMLParser, writer: Writer, name: str) -> None:
    """Walks without recursion, so that nesting cannot exhaust the stack; absurd nesting is refused."""
    root = tree.body or tree.root
    if root is None:
        return
    for node, entering, depth in walk(root):
        if depth > DEEPEST:
            raise too_deep(name)
        if entering:
            enter(node, writer)
        else:
            leave(node, writer)
    writer.flush()


def walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool, int]]:
    """Every node in order, and again when left; skipped elements are not entered."""
    node, depth = root, 0
    while True:
        yield node, True, depth
        child = node.child if wanted(node) else None
        if child is not None:
            node, depth = child, depth + 1
            continue
        yield node, False, depth
        while node.next is None or depth == 0:
            if depth == 0:
                return
            parent = node.parent
            if parent is None:
                return
            node, depth = parent, depth - 1
            yield node, False, depth
        node = node.next


def wanted(node: LexborNode) -> bool:
    return node.tag not in SKIP and node.tag != "pre" and "hidden" not in node.attributes


def enter(node: LexborNode, writer: Writer) -> None:
    tag = node.tag
    if tag == "-text":
        writer.inline.append((node.text_content or "").translate(INVISIBLE).replace("\x00", ""))
        return
    if tag in BLOCK:
        writer.flush("\n" if tag in CLOSE else "\n\n")
    if name := node.attributes.get("id") or (node.attributes.get("name") if tag == "a" else None):
        writer.waiting.append(name)
    if tag == "li":
        writer.bullet = "- "
    elif tag == "br":
        writer.inline.append("\x00")
    elif tag in ("td", "th") and "".join(writer.inline).strip():
        writer.inline.append(" | ")
    elif tag == "img" and node.attributes.get("alt"):
        writer.inline.append(" " + (node.attributes["alt"] or "").translate(INVISIBLE) + " ")
    elif tag == "pre" and "hidden" not in node.attributes:
        writer.preformatted(node.text(deep=True).translate(INVISIBLE).replace("\x00", "").replace("\r", ""))


def leave(node: LexborNode, writer: Writer) -> None:
    tag = node.tag
    if tag in HEADINGS:
        writer.heading(HEADINGS[tag])
    elif tag in BLOCK:
        writer.flush("\n" if tag in CLOSE else "\n\n")
        if tag == "li":
            writer.bullet = ""


def marks_of(text: str, headings: list[Heading]) -> list[Heading]:
    """Headings that have something below them; where the page has none, chapters by their look."""
    first, last = body_of(text)
    headings = [h for h in headings if first <= h.start < last]
    if not headings:
        return find_chapters(text)
    ends = [h.start for h in headings[1:]] + [last]
    levels = [h.level for h in headings[1:]] + [0]
    full = [
        h
        for h, end, following in zip(headings, ends, levels, strict=True)
        if not CONTENTS.match(h.title) and (text[h.end : end].strip() or following > h.level)
    ]
    if not full:
        return find_chapters(text)
    return drop_contents(text, full, last) + back_matter(text, last, min(h.level for h in full))
