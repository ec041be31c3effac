"""EPUB to a draft: container.xml names the package file, its spine the order, nav or NCX the chapters."""

import posixpath
import re
import zipfile
from dataclasses import dataclass
from urllib.parse import unquote

from lxml import etree

from services.ingest.chapters import find_chapters, tidy
from services.ingest.draft import Draft, Heading
from services.ingest.html import Writer, decode_html, marks_of, parse_html, write_tree
from services.ingest.members import Budget, open_zip, read_member
from services.ingest.plain import stem
from services.ingest.types import LIMITS, IngestError, Limits

PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True, huge_tree=False)
EMPTY = re.compile(r"<(?!br\b|hr\b|img\b|meta\b|link\b|input\b|col\b)([a-zA-Z][\w:-]*)(\s[^<>]*)?/>")
MATTER = re.compile(
    r"(?i)(title ?page|half ?title( ?page)?|cover( page)?|imprint|(un)?copyright( page| notice)?|colophon|"
    r"dedication|epigraph|(table of )?contents|list of illustrations|also by.*|about the (author|publisher).*)$"
)
THIN = 800


@dataclass(frozen=True)
class Entry:
    title: str
    level: int
    file: str
    anchor: str


@dataclass
class Book:
    """An opened EPUB; paths are those inside the zip."""

    archive: zipfile.ZipFile
    budget: Budget
    root: str = ""

    def names(self) -> set[str]:
        return set(self.archive.namelist())

    def read(self, path: str) -> bytes:
        return read_member(self.archive, self.archive.getinfo(path), self.budget)

    def xml(self, path: str) -> etree._Element:
        tree = None
        if path in self.names():
            try:
                tree = etree.fromstring(self.read(path), PARSER)
            except (etree.XMLSyntaxError, ValueError):
                tree = None
        if tree is None:
            raise IngestError("damaged", f"{self.budget.name} is an EPUB without a readable {path}. Export it again.")
        return tree

    def resolve(self, base: str, href: str) -> tuple[str, str]:
        path, _, anchor = href.partition("#")
        return (posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(path))) if path else base), anchor


def is_epub(archive: zipfile.ZipFile) -> bool:
    return "META-INF/container.xml" in archive.namelist()


def read_epub(data: bytes, filename: str, limits: Limits = LIMITS) -> Draft:
    budget = Budget(filename, limits)
    book = Book(open_zip(data, filename, budget), budget)
    if "META-INF/encryption.xml" in book.names() and "META-INF/rights.xml" in book.names():
        raise IngestError("encrypted", f"{filename} is protected by DRM. Upload a copy without protection.")
    book.root = package_path(book)
    package = book.xml(book.root)
    manifest = {i.get("id", ""): i for i in all_of(package, "item")}
    spine = [book.resolve(book.root, i.get("href", ""))[0] for i in spine_items(package, manifest)]
    return draft_of(book, package, spine, contents(book, package, manifest))


def package_path(book: Book) -> str:
    found = [r.get("full-path", "") for r in all_of(book.xml("META-INF/container.xml"), "rootfile")]
    if not found:
        raise IngestError("damaged", f"{book.budget.name} is an EPUB whose container names no book. Export it again.")
    return found[0]


def all_of(tree: etree._Element, name: str) -> list[etree._Element]:
    """Elements by local name, whatever the namespace."""
    return [e for e in tree.iter() if isinstance(e.tag, str) and etree.QName(e).localname == name]


def spine_items(package: etree._Element, manifest: dict[str, etree._Element]) -> list[etree._Element]:
    refs = [r for r in all_of(package, "itemref") if r.get("linear") != "no"]
    items = [manifest[r.get("idref", "")] for r in refs if r.get("idref", "") in manifest]
    return [i for i in items if "html" in i.get("media-type", "html") and "nav" not in i.get("properties", "").split()]


def draft_of(book: Book, package: etree._Element, spine: list[str], entries: list[Entry]) -> Draft:
    writer, starts = Writer(), dict[str, int]()
    anchors: dict[tuple[str, str], int] = {}
    warnings = [f"The book lacks its part {path}" for path in spine if path not in book.names()]
    for path in spine:
        if path in book.names() and path not in starts:
            starts[path] = write_file(book, path, writer)
            anchors.update({(path, name): char for name, char in writer.anchors.items()})
            writer.anchors = {}
    text = writer.text()
    if not text.strip():
        raise IngestError("empty", f"{book.budget.name} is an EPUB without text, perhaps pictures. It needs OCR first.")
    titles = [tidy("".join(map(str, t.itertext()))) for t in all_of(package, "title")]
    draft = Draft(next(filter(None, titles), stem(book.budget.name)), text, writer.headings, codes=writer.codes)
    draft.marks = matter(text, toc_marks(entries, starts, anchors, len(text)) or marks_of(text, writer.headings))
    draft.marks = draft.marks or find_chapters(text)
    draft.warnings = warnings
    return draft


def write_file(book: Book, path: str, writer: Writer) -> int:
    start = writer.break_document()
    source = decode_html(book.read(path), f"{path} in {book.budget.name}")
    source = EMPTY.sub(lambda m: f"<{m[1]}{m[2] or ''}></{m[1]}>", source)
    write_tree(parse_html(source, path), writer, f"{path} in {book.budget.name}")
    return start


def contents(book: Book, package: etree._Element, manifest: dict[str, etree._Element]) -> list[Entry]:
    """The table of contents: EPUB 3's nav, else EPUB 2's NCX, else none."""
    navs = [i for i in manifest.values() if "nav" in i.get("properties", "").split()]
    ncxs = [i for i in manifest.values() if i.get("media-type") == "application/x-dtbncx+xml"]
    for item, reader in [*((n, nav_entries) for n in navs), *((n, ncx_entries) for n in ncxs)]:
        path = book.resolve(book.root, item.get("href", ""))[0]
        try:
            if entries := reader(book, path):
                return entries
        except IngestError as error:
            if error.code == "archive_bomb":
                raise
    return []


def nav_entries(book: Book, path: str) -> list[Entry]:
    navs = all_of(book.xml(path), "nav")
    tocs = [n for n in navs if any(str(v) == "toc" and str(k).endswith("type") for k, v in n.attrib.items())]
    links = all_of((tocs or navs)[0], "a") if navs else []
    return [entry_of(book, path, link, link.get("href", ""), depth(link, "ol")) for link in links]


def ncx_entries(book: Book, path: str) -> list[Entry]:
    out = []
    for point in all_of(book.xml(path), "navPoint"):
        label, content = all_of(point, "navLabel"), all_of(point, "content")
        if label and content:
            out.append(entry_of(book, path, label[0], content[0].get("src", ""), depth(point, "navPoint") + 1))
    return out


def entry_of(book: Book, path: str, label: etree._Element, href: str, level: int) -> Entry:
    return Entry(tidy("".join(map(str, label.itertext())))[:300], max(1, level), *book.resolve(path, href))


def depth(node: etree._Element, name: str) -> int:
    return sum(1 for a in node.iterancestors() if isinstance(a.tag, str) and etree.QName(a).localname == name)


def toc_marks(
    entries: list[Entry], starts: dict[str, int], anchors: dict[tuple[str, str], int], size: int
) -> list[Heading]:
    """Entries at the char they point to; of several at one place those that nest, of one pointing nowhere none."""
    marks: list[Heading] = []
    placed = [(anchors.get((e.file, e.anchor), starts.get(e.file, size)), e) for e in entries if e.title]
    for char, e in sorted(placed, key=lambda p: p[0]):
        same = bool(marks) and marks[-1].start == char
        if char < size and (not same or e.level > marks[-1].level):
            marks.append(Heading(e.title, e.level, char, char))
    return marks


def matter(text: str, marks: list[Heading]) -> list[Heading]:
    """Title page, imprint and their like become one front matter, colophon and its like one back matter."""
    ends = [m.start for m in marks[1:]] + [len(text)]
    plain = [bool(MATTER.match(m.title)) for m in marks]
    thin = [len(text[m.start : e].strip()) < THIN for m, e in zip(marks, ends, strict=True)]
    if all(a or b for a, b in zip(plain, thin, strict=True)):
        return marks
    first = next(n for n in range(len(marks)) if not plain[n])
    last = next(n for n in range(len(marks), 0, -1) if not (plain[n - 1] or (thin[n - 1] and n > first + 2)))
    front = [Heading("Front matter", 1, marks[0].start, marks[0].end)] if first else []
    back = [Heading("Back matter", 1, marks[last].start, marks[last].end)] if last < len(marks) else []
    return [*front, *marks[first:last], *back]
