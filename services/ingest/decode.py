"""Bytes to canonical text: any encoding in, `str` with LF line ends out."""

import codecs
import re

from charset_normalizer import from_bytes

from services.ingest.types import LIMITS, IngestError, Limits

BOMS = (  # longest first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 1 << 16
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def to_text(data: bytes, name: str, limits: Limits = LIMITS) -> str:
    """The text of `data`; refuses what is empty, too large or not text."""
    check_size(len(data), name, limits)
    text = normalise(decode(data, name))
    if not text.strip():
        raise IngestError("empty", f"{name} holds no text. Upload a file with words in it.")
    return text


def check_size(size: int, name: str, limits: Limits = LIMITS) -> None:
    if size > limits.text_bytes:
        most = f"the limit is {limits.text_bytes >> 20} MiB"
        raise IngestError("too_large", f"{name} has {size >> 20} MiB of text; {most}. Split it and upload the parts.")


def normalise(text: str) -> str:
    """LF line ends and no byte order mark; nothing else is touched."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")


def decode(data: bytes, name: str) -> str:
    encoding = encoding_of(data)
    if encoding is None:
        raise IngestError(
            "binary",
            f"{name} is not text: its bytes are binary data. Upload TXT, Markdown, HTML, EPUB or PDF.",
        )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        message = (
            f"{name} breaks its encoding ({encoding}) at byte {error.start}. Save it as UTF-8 and upload it again."
        )
        raise IngestError("bad_encoding", message) from None


def encoding_of(data: bytes) -> str | None:
    """A codec that reads all of `data`, or None when it is binary."""
    for bom, encoding in BOMS:
        if data.startswith(bom):
            return encoding
    if b"\0" in data:
        return utf16_without_bom(data)
    if is_utf8(data):
        return "utf-8" if len(CONTROL.findall(data[:SAMPLE])) * 50 <= len(data[:SAMPLE]) else None
    return legacy_encoding(data)


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def utf16_without_bom(data: bytes) -> str | None:
    """UTF-16 shows in mostly Latin text as zeros on one side of each pair only."""
    sample = data[:SAMPLE]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > 0.4 * half and others == 0 and decodes(data, encoding):
            return encoding
    return None


def legacy_encoding(data: bytes) -> str | None:
    """charset-normalizer's best guess on a sample, else Windows-1252 when it looks like text."""
    if len(CONTROL.findall(data[:SAMPLE])) * 100 > len(data[:SAMPLE]):
        return None
    best = from_bytes(sample_of(data)).best()
    guesses = [best.encoding] if best else []
    return next((e for e in [*guesses, "cp1252", "latin-1"] if decodes(data, e)), None)


def sample_of(data: bytes) -> bytes:
    """Up to 64 KiB that hold bytes above ASCII, from which a guess can be made."""
    first = next((m.start() for m in re.finditer(rb"[\x80-\xff]", data)), 0)
    start = max(0, first - SAMPLE // 4)
    return data[start : start + SAMPLE]


def decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return False
    return True
