"""Small files of every format, made in code."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from services.ingest.types import IngestError, Parsed

WORDS = "The harbour lay still while the keeper counted the boats and wrote their names in the long book. "
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)


def paragraphs(seed: str, count: int = 12) -> list[str]:
    return [f"{seed} {n}: " + WORDS * 3 for n in range(count)]


def zip_bytes(files: dict[str, str | bytes], **options: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_bytes(files: dict[str, str | bytes], mode: str = "w:gz", links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def epub_bytes(chapters: dict[str, str], toc: str = "nav", title: str = "The Keeper", **extra: str | bytes) -> bytes:
    """`chapters`: title -> body markup. toc: "nav", "ncx" or none."""
    files = {f"c{n}.xhtml": page(name, body) for n, (name, body) in enumerate(chapters.items())}
    items = "".join(f'<item id="i{n}" href="{f}" media-type="application/xhtml+xml"/>' for n, f in enumerate(files))
    refs = "".join(f'<itemref idref="i{n}"/>' for n in range(len(files)))
    links = list(zip(files, chapters, strict=True))
    if toc == "nav":
        items += '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        rows = "".join(f'<li><a href="{f}">{t}</a></li>' for f, t in links)
        files["nav.xhtml"] = page(
            "Contents", f'<nav xmlns:epub="http://www.idpf.org/2007/ops" epub:type="toc"><ol>{rows}</ol></nav>'
        )
    if toc == "ncx":
        items += '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
        point = '<navPoint><navLabel><text>{1}</text></navLabel><content src="{0}"/></navPoint>'
        files["toc.ncx"] = f"<ncx><navMap>{''.join(point.format(*link) for link in links)}</navMap></ncx>"
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{refs}</spine></package>"
    )
    parts: dict[str, str | bytes] = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER}
    return zip_bytes({**parts, "OPS/book.opf": package, **{f"OPS/{k}": v for k, v in files.items()}, **extra})


def page(title: str, body: str) -> str:
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{title}</title></head><body>{body}</body></html>'


def pdf_bytes(
    pages: list[list[tuple[float, float, str]]], toc: list[tuple[str, int]] = (), encrypt: bool = False
) -> bytes:  # type: ignore[assignment]
    """Pages of (x, y, line) in 12 point Helvetica; toc: (title, page from 0)."""
    first = 4 + len(toc) + (1 if toc else 0)
    kids = [first + 2 * n for n in range(len(pages))]
    outline = "/Outlines 4 0 R" if toc else ""
    objects = {
        1: f"<</Type/Catalog/Pages 2 0 R{outline}>>",
        2: f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(f'{k} 0 R' for k in kids)}]>>",
        3: "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
    }
    if toc:
        objects[4] = f"<</Type/Outlines/First 5 0 R/Last {4 + len(toc)} 0 R/Count {len(toc)}>>"
    for n, (title, number) in enumerate(toc):
        following = f"/Next {6 + n} 0 R" if n + 1 < len(toc) else ""
        objects[5 + n] = f"<</Title({title})/Parent 4 0 R/Dest[{kids[number]} 0 R/Fit]{following}>>"
    for kid, lines in zip(kids, pages, strict=True):
        media = (
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 600]/Resources<</Font<</F 3 0 R>>>>/Contents {kid + 1} 0 R>>"
        )
        shown = "".join(f"BT /F 12 Tf {x} {y} Td ({escaped(t)}) Tj ET\n" for x, y, t in lines)
        objects[kid] = media
        objects[kid + 1] = f"<</Length {len(shown.encode('cp1252'))}>>stream\n{shown}endstream"
    return assemble_pdf(objects, encrypt)


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def assemble_pdf(objects: dict[int, str], encrypt: bool) -> bytes:
    out, places = bytearray(b"%PDF-1.4\n"), {}
    for number in sorted(objects):
        places[number] = len(out)
        out += f"{number} 0 obj\n{objects[number]}\nendobj\n".encode("cp1252")
    start = len(out)
    rows = "".join(f"{places[n]:010d} 00000 n \n" for n in sorted(places))
    secret = "/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/O<" + "11" * 32 + ">/U<" + "22" * 32 + ">/P -4>>"
    trailer = f"<</Size {len(objects) + 1}/Root 1 0 R{secret if encrypt else ''}>>"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{rows}"
    return bytes(out) + f"{table}trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode()


def parse(fn: Callable[..., Parsed], folder: Path, name: str, data: bytes | str, **options: object) -> Parsed:
    path = folder / "upload"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return fn(path, name, **options)


def refused(fn: Callable[..., Parsed], folder: Path, name: str, data: bytes | str, **options: object) -> IngestError:
    with pytest.raises(IngestError) as caught:
        parse(fn, folder, name, data, **options)
    assert len(caught.value.message) > 30  # says what is wrong and what to do
    return caught.value


def check(parsed: Parsed) -> None:
    """The invariants every Parsed keeps."""
    text = parsed.text
    assert "".join(b.text for b in parsed.blocks) == text
    assert [b.ordinal for b in parsed.blocks] == list(range(len(parsed.blocks)))
    assert "\r" not in text
    files = {f.path: f for f in parsed.files}
    for b in parsed.blocks:
        base = files[b.path].char[0] if b.path else 0
        assert b.text and text[slice(*b.char)] == b.text
        assert b.line == lines_of(text[base:], b.char[0] - base, b.char[1] - base)
        chapter = parsed.outline[b.chapter if b.chapter is not None else -1]
        assert chapter.char[0] <= b.char[0] and b.char[1] <= chapter.char[1]
    check_outline(parsed)


def lines_of(text: str, start: int, end: int) -> tuple[int, int]:
    return text.count("\n", 0, start) + 1, text.count("\n", 0, max(start, end - 1)) + 1


def check_outline(parsed: Parsed) -> None:
    top = [c for c in parsed.outline if c.level == 1]
    edges = [0, *(c.char[1] for c in top)]
    assert [c.char[0] for c in top] == edges[:-1] and edges[-1] == len(parsed.text)
    around: list[tuple[int, int]] = []
    for c in parsed.outline:
        around = around[: c.level - 1]
        assert len(around) == c.level - 1, "levels have no holes"
        assert all(a <= c.char[0] <= c.char[1] <= b for a, b in around)
        around.append(c.char)
