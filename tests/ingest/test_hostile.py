"""Hostile and broken input ends in an IngestError that says what is wrong, quickly, with nothing written."""

import gzip
import io
import os
import random
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from services.ingest.document import parse_document
from services.ingest.repository import parse_repository
from services.ingest.types import IngestError, Limits, Parsed
from tests.ingest.makers import check, epub_bytes, parse, pdf_bytes, refused, tar_bytes, zip_bytes

PDF = pdf_bytes([[(50, 500, "The keeper counted the boats.")]])
EPUB = epub_bytes({"One": "<h1>One</h1><p>words</p>"})
SMALL = Limits(text_bytes=1 << 20, inflated_bytes=8 << 20, members=50)


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t \r\n", "empty"),
        ("a.html", b"<html><body><script>1</script></body></html>", "empty"),
        ("a.epub", epub_bytes({"One": "<img src='x'/>"}), "empty"),
        ("a.txt", bytes(range(256)) * 20, "binary"),
        ("a.txt", b"\x7fELF" + b"\0" * 100, "unsupported"),
        ("a.txt", random.Random(1).randbytes(5000).replace(b"\0", b"\1"), "binary"),
        ("a.md", b"text\0text" * 50, "binary"),
        ("a.txt", "half".encode("utf-16") + b"\x00", "bad_encoding"),
        ("a.pdf", b"just words, really\n", "wrong_type"),
        ("a.epub", b"<p>words</p>", "wrong_type"),
        ("a.pdf", PDF[: len(PDF) // 3], "damaged"),
        ("a.pdf", b"%PDF-1.7\n" + b"\xff" * 500, "damaged"),
        ("a.pdf", pdf_bytes([[(50, 500, "words")]], encrypt=True), "encrypted"),
        ("a.pdf", pdf_bytes([[]]), "no_text"),
        ("a.epub", EPUB[: len(EPUB) // 2], "damaged"),
        ("a.epub", zip_bytes({"META-INF/container.xml": "<container/>"}), "damaged"),
        ("a.epub", zip_bytes({"META-INF/container.xml": "not xml"}), "damaged"),
        ("a.txt", zip_bytes({"x.txt": "x"}), "unsupported"),
        ("a.docx", zip_bytes({"[Content_Types].xml": "<x/>"}), "unsupported"),
        ("a.txt", gzip.compress(b"x" * 100), "unsupported"),
        ("a.txt", tar_bytes({"x": "x"}, "w"), "unsupported"),
        ("a.doc", b"\xd0\xcf\x11\xe0" + b"\0" * 600, "unsupported"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "unsupported"),
    ],
)  # fmt: skip
def test_documents_refused(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    error = refused(parse_document, tmp_path, name, data)
    assert error.code == code
    assert name in error.message


def encrypted_zip() -> bytes:
    raw = bytearray(zip_bytes({"a.py": "x = 1\n"}))
    raw[6] |= 1  # the flag in the member's own header and in the directory
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    return bytes(raw)


def two_of_a_name() -> bytes:
    out = io.BytesIO()
    with pytest.warns(UserWarning), zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.py", "x")
        archive.writestr("a.py", "y")
    return out.getvalue()


def zip_link(target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("d/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, target)
    return out.getvalue()


def hard_link(target: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("d/link")
        info.type, info.linkname = tarfile.LNKTYPE, target
        archive.addfile(info)
    return out.getvalue()


TAR = tar_bytes({f"d/{n}.py": os.urandom(300).hex() for n in range(40)})


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("r.zip", b"", "empty"),
        ("r.zip", b"just words", "unsupported"),
        ("r.zip", zip_bytes({}), "nothing_to_read"),
        ("r.zip", zip_bytes({"pic.png": b"\x89PNG", "node_modules/a.js": "x"}), "nothing_to_read"),
        ("r.zip", zip_bytes({".gitignore": "*\n", "a.py": "x\n"}), "nothing_to_read"),
        ("r.zip", zip_bytes({"../a.py": "x"}), "unsafe_path"),
        ("r.zip", zip_bytes({"a\\..\\..\\b.py": "x"}), "unsafe_path"),
        ("r.zip", zip_bytes({"/etc/a.py": "x"}), "unsafe_path"),
        ("r.zip", zip_bytes({"C:\\a.py": "x"}), "unsafe_path"),
        ("r.zip", zip_link("/etc/passwd"), "unsafe_path"),
        ("r.zip", zip_link("../../etc/passwd"), "unsafe_path"),
        ("r.zip", encrypted_zip(), "encrypted"),
        ("r.zip", zip_bytes({"a.py": "x = 1\n" * 500})[:90], "damaged"),
        ("r.tgz", TAR[: len(TAR) // 2], "damaged"),
        ("r.tgz", gzip.compress(b"no tar at all" * 100), "damaged"),
        ("r.tgz", b"\x1f\x8b" + b"\xff" * 100, "damaged"),
        ("r.tar", tar_bytes({"../../a.py": "x"}, "w"), "unsafe_path"),
        ("r.tar", tar_bytes({"/abs/a.py": "x"}, "w"), "unsafe_path"),
        ("r.tar", tar_bytes({"d/a.py": "x"}, "w", {"d/l": "/etc/passwd"}), "unsafe_path"),
        ("r.tar", tar_bytes({"d/a.py": "x"}, "w", {"d/l": "../../x"}), "unsafe_path"),
        ("r.tar", hard_link("/etc/passwd"), "unsafe_path"),
        ("r.tar", hard_link("../x"), "unsafe_path"),
    ],
)
def test_archives_refused(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    error = refused(parse_repository, tmp_path, name, data)
    assert error.code == code
    assert name in error.message
    assert [p.name for p in tmp_path.iterdir()] == ["upload"]


def test_two_members_of_one_name(tmp_path: Path) -> None:
    assert refused(parse_repository, tmp_path, "r.zip", two_of_a_name()).code == "duplicate_member"


def lying_zip(size: int) -> bytes:
    """A bomb that declares to be small."""
    raw = bytearray(zip_bytes({"a.txt": b"0" * size}))
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = raw.index(magic) + at
        raw[place : place + 4] = (10).to_bytes(4, "little")
    return bytes(raw)


@pytest.mark.parametrize(
    ("fn", "name", "data"),
    [
        (parse_repository, "r.zip", zip_bytes({"a.txt": b"0" * (4 << 20)})),  # ratio
        (parse_repository, "r.zip", zip_bytes({f"{n}.bin": os.urandom(1 << 10) * 900 for n in range(12)})),  # total
        (parse_repository, "r.zip", zip_bytes({f"{n}.py": "x\n" for n in range(60)})),  # members
        (parse_repository, "r.tgz", tar_bytes({"a.txt": b"0" * (4 << 20)})),
        (parse_repository, "r.tar", tar_bytes({f"{n}.bin": os.urandom(1 << 20) for n in range(9)}, "w")),
        (parse_repository, "r.tgz", tar_bytes({f"{n}.py": "x\n" for n in range(60)})),
        (parse_document, "a.epub", epub_bytes({"One": "<p>" + "0" * (4 << 20) + "</p>"})),
    ],
)
def test_bombs(tmp_path: Path, fn: Callable[..., Parsed], name: str, data: bytes) -> None:
    assert refused(fn, tmp_path, name, data, limits=SMALL).code == "archive_bomb"


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    assert refused(parse_repository, tmp_path, "r.zip", lying_zip(64 << 20)).code in ("damaged", "archive_bomb")


def test_too_much_text(tmp_path: Path) -> None:
    assert refused(parse_document, tmp_path, "a.txt", "word " * (1 << 18), limits=SMALL).code == "too_large"
    many = {f"{n}.txt": os.urandom(1 << 17).hex() for n in range(9)}
    assert refused(parse_repository, tmp_path, "r.zip", zip_bytes(many), limits=SMALL).code == "too_large"


def test_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    began = time.process_time()
    with pytest.raises(IngestError, match="limit is 64 MiB"):
        parse_document(path, "huge.txt")
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "text",
    ["x" * (8 << 20), "word " * (1 << 20), "\n" * (1 << 20) + "x", "# h\n" * 50_000, "(" * (1 << 20),
     " \n" * (1 << 20) + "x",     "I\n\n" * 100_000, "[" * 100_000 + "\n"],
    ids=["one word", "one line", "newlines", "headings", "brackets", "spaces", "numerals", "open links"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_odd_text_is_quick(tmp_path: Path, text: str, name: str) -> None:
    began = time.process_time()
    check_quick = parse(parse_document, tmp_path, name, text)
    assert time.process_time() - began < 8
    assert "".join(b.text for b in check_quick.blocks) == text


def test_nested_html(tmp_path: Path) -> None:
    shallow = "<html>" + "<div>" * 2000 + "words" + "</div>" * 2000
    check(parse(parse_document, tmp_path, "a.html", shallow))
    assert refused(parse_document, tmp_path, "a.html", "<html>" + "<div>" * 100_000 + "words").code == "too_deep"


def test_epub_with_a_hostile_toc_still_reads(tmp_path: Path) -> None:
    entity = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    nav = f'{entity}<html><nav><ol><li><a href="c0.xhtml">&b;&c;</a></li><li><a href="../../x">Up</a></li>'
    nav += "</ol></nav></html>"
    parsed = parse(
        parse_document, tmp_path, "a.epub", epub_bytes({"One": "<h1>One</h1><p>words</p>"}, **{"OPS/nav.xhtml": nav})
    )
    check(parsed)
    assert parsed.text == "One\n\nwords\n" and "root:" not in repr(parsed)


def test_damage_anywhere_is_an_ingest_error(tmp_path: Path) -> None:
    """Flipped and cut bytes give a Parsed that keeps its promises, or an IngestError; nothing else."""
    random_ = random.Random(7)
    for fn, name, data in (
        (parse_document, "a.pdf", PDF),
        (parse_document, "a.epub", EPUB),
        (parse_repository, "r.tgz", TAR),
    ):
        for _ in range(60):
            raw = bytearray(data[: random_.randrange(1, len(data))] if random_.random() < 0.3 else data)
            for _ in range(random_.randrange(6)):
                raw[random_.randrange(len(raw))] = random_.randrange(256)
            try:
                check(parse(fn, tmp_path, name, bytes(raw)))
            except IngestError as error:
                assert error.message
