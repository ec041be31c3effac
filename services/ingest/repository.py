"""`parse_repository`: zip, tar, tar.gz or a folder to one text, its files as order.py says, with blocks and symbols."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from services.ingest.archive import Member, Source, folder_source, tar_source, zip_source
from services.ingest.chunks import file_cuts
from services.ingest.decode import decode, normalise
from services.ingest.draft import Lines
from services.ingest.languages import language_of
from services.ingest.members import Budget
from services.ingest.order import arranged
from services.ingest.plain import stem
from services.ingest.select import Ignores, reason_by_path, reason_by_text
from services.ingest.symbols import symbols_of
from services.ingest.types import LIMITS, Block, Chapter, File, IngestError, Known, Limits, Parsed, Symbol


@dataclass
class Files:
    """What is read, by path, and why the rest is not."""

    texts: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> (text, sha256 of the bytes)
    left_out: Counter[str] = field(default_factory=Counter)


NOTHING_KNOWN = Known()


def parse_repository(path: Path, filename: str, limits: Limits = LIMITS, known: Known = NOTHING_KNOWN) -> Parsed:
    budget = Budget(filename, limits)
    source = open_source(Path(path), filename, budget)
    members = list(bounded(source, limits, filename))
    files = choose(strip_top(members, filename))
    if not files.texts:
        raise nothing_left(filename, files.left_out)
    size = sum(len(text) for text, _ in files.texts.values())
    if size > limits.text_bytes:
        message = f"{filename} holds {size >> 20} MiB of text; the limit is {limits.text_bytes >> 20} MiB."
        raise IngestError("too_large", f"{message} Upload a part of the repository.")
    in_order = arranged({path: sha256 for path, (_, sha256) in files.texts.items()}, known)
    files.texts = {path: files.texts[path] for path in in_order}
    return assemble(title_of(members, filename), files, source.revision)


def open_source(path: Path, filename: str, budget: Budget) -> Source:
    if path.is_dir():
        return folder_source(path, budget)
    data = path.read_bytes()
    if not data:
        raise IngestError("empty", f"{filename} has no bytes. Upload it again.")
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return zip_source(data, budget)
    if data.startswith(b"\x1f\x8b") or data[257:262] == b"ustar":
        return tar_source(data, budget)
    message = f"{filename} is not an archive that can be read. Pack the repository as zip, tar or tar.gz."
    raise IngestError("unsupported", message)


def bounded(source: Source, limits: Limits, filename: str) -> list[Member]:
    """The members; contents are dropped at once where the name already says that they are not read."""
    out, size = [], 0
    for member in source.members:
        reason = member.reason or reason_by_path(member.path) or binary(member.data)
        out.append(Member(member.path, None, reason) if reason else member)
        size += 0 if reason else len(member.data or b"")
        if size > 2 * limits.text_bytes:
            message = f"{filename} holds more than {2 * limits.text_bytes >> 20} MiB of text. Upload a part of it."
            raise IngestError("too_large", message)
    return out


def binary(data: bytes | None) -> str | None:
    sample = (data or b"")[:8192]
    wide = sample.startswith((b"\xff\xfe", b"\xfe\xff"))
    return "binary" if b"\0" in sample and not wide else None


def strip_top(members: list[Member], filename: str) -> list[Member]:
    """Paths without the one folder that is around everything, in order."""
    tops = {PurePosixPath(m.path).parts[0] for m in members if m.path != "."}
    wrapped = len(tops) == 1 and all("/" in m.path for m in members)
    out = [Member(m.path.split("/", 1)[1], m.data, m.reason) for m in members] if wrapped else members
    return sorted((m for m in out if not m.path.startswith(".git/")), key=lambda m: m.path)


def choose(members: list[Member]) -> Files:
    files = Files()
    rules = [m for m in members if PurePosixPath(m.path).name == ".gitignore" and m.data]
    ignores = Ignores((m.path, (m.data or b"").decode("utf-8", "replace")) for m in rules)
    for member in members:
        reason = member.reason or ("ignored by .gitignore" if ignores.match(member.path) else None)
        text = "" if reason else text_of(member)
        reason = reason or ("binary" if text is None else reason_by_text(member.path, text))
        reason = reason or ("name seen twice" if member.path in files.texts else None)
        if reason:
            files.left_out[reason] += 1
        else:
            files.texts[member.path] = (text or "", hashlib.sha256(member.data or b"").hexdigest())
    return files


def text_of(member: Member) -> str | None:
    """The file's text ending in a newline, None when it is not text."""
    try:
        text = normalise(decode(member.data or b"", member.path))
    except IngestError:
        return None
    return text if text.endswith("\n") else text + "\n"


def nothing_left(filename: str, left_out: Counter[str]) -> IngestError:
    reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.most_common()) or "it is empty"
    return IngestError("nothing_to_read", f"{filename} has no file to read: {reasons}. Upload one with source text.")


def title_of(members: list[Member], filename: str) -> str:
    """The folder around everything when there is one, else the archive's name."""
    tops = {PurePosixPath(m.path).parts[0] for m in members}
    if len(tops) == 1 and all("/" in m.path for m in members):
        return tops.pop()
    return stem(filename.removesuffix(".gz").removesuffix(".git"))


def assemble(title: str, files: Files, revision: str | None) -> Parsed:
    parsed = Parsed("repository", title, "".join(text for text, _ in files.texts.values()), [], [], revision=revision)
    offset = 0
    for number, (path, (text, sha256)) in enumerate(files.texts.items()):
        language, lines = language_of(path), Lines(text)
        symbols = symbols_of(text, language, path)
        char = (offset, offset + len(text))
        parsed.files.append(File(path, language, char, len(lines.ends), sha256))
        parsed.outline.append(Chapter(path, 1, char, (1, len(lines.ends)), None, path))
        parsed.symbols.extend(moved(s, offset) for s in symbols)
        for a, b, kind in file_cuts(text, language, symbols, lines):
            at = (offset + a, offset + b)
            block = Block(len(parsed.blocks), kind, text[a:b], at, lines.span((a, b)), None, path, number)
            parsed.blocks.append(block)
        offset += len(text)
    parsed.warnings.extend(f"{count} left out: {why}" for why, count in sorted(files.left_out.items()))
    return parsed


def moved(symbol: Symbol, offset: int) -> Symbol:
    char = (symbol.char[0] + offset, symbol.char[1] + offset)
    return Symbol(symbol.name, symbol.kind, symbol.path, symbol.line, char, symbol.signature, symbol.parent)
