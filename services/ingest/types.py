"""What ingest hands to the other rooms, and the one error it raises."""

from dataclasses import dataclass, field

Span = tuple[int, int]  # chars: [a, b) into Parsed.text; lines: 1-based, both ends included


@dataclass(frozen=True)
class Block:
    """A paragraph, heading or stretch of code; blocks tile the text."""

    ordinal: int
    kind: str  # "heading" | "paragraph" | "code"
    text: str
    char: Span
    line: Span  # in a repository: inside the file
    page: int | None = None  # PDF: page on which the block begins, from 1
    path: str | None = None  # repository: the file
    chapter: int | None = None  # index into Parsed.outline of the innermost entry around it


@dataclass(frozen=True)
class Chapter:
    """An entry of the outline. Entries of level 1 tile the text; deeper ones nest in the one before them."""

    title: str
    level: int
    char: Span
    line: Span
    page: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class File:
    path: str
    language: str | None
    char: Span
    lines: int
    sha256: str  # of the bytes as they were in the archive


@dataclass(frozen=True)
class Symbol:
    """A definition in code: `text[char[0]:char[1]]` is its source, `line` counts inside the file."""

    name: str
    kind: str  # "function" | "method" | "class" | "type"
    path: str
    line: Span
    char: Span
    signature: str
    parent: str | None = None


@dataclass(frozen=True)
class Parsed:
    kind: str  # "document" | "repository"
    title: str
    text: str
    blocks: list[Block]
    outline: list[Chapter]
    files: list[File] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    revision: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checkout:
    """A clone on disk, pinned: `parse_repository(path, name)` reads it."""

    path: str
    url: str
    revision: str  # full commit sha
    changes: tuple[tuple[str, int], ...] = ()  # (path, how many of the fetched commits touched it)


@dataclass(frozen=True)
class Known:
    """What is known of a repository besides its files; it decides their order."""

    changes: tuple[tuple[str, int], ...] = ()  # as of Checkout; empty: no history
    before: tuple[tuple[str, str], ...] = ()  # (path, sha256) of the version before, in the order it was read


class IngestError(Exception):
    """A source cannot be read; the message says what is wrong and what to do about it."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True)
class Limits:
    """Bounds on what one source may cost."""

    text_bytes: int = 64 << 20  # canonical text of a source
    inflated_bytes: int = 512 << 20  # everything an archive unpacks to
    members: int = 50_000  # entries of an archive
    ratio: int = 200  # inflated : packed, for members of ratio_from bytes and more
    ratio_from: int = 1 << 20
    file_bytes: int = 1 << 20  # one file of a repository; larger ones are left out with a warning
    clone_bytes: int = 512 << 20
    clone_seconds: float = 300.0


LIMITS = Limits()
