"""The cold tier on a real folder and on a real S3 server (rclone's)."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from services.errors import InvalidInput
from services.vault.cold import Cold, ColdUnavailable
from services.vault.folder import INCOMING
from services.vault.resp import ValueTooLong
from tests.conftest import free_port
from tests.vault.conftest import SECRET


@pytest.fixture(params=["file", "s3"])
def cold(request: pytest.FixtureRequest, tmp_path: Path) -> Cold:
    if request.param == "file":
        return Cold(f"file://{tmp_path}/cold")
    request.getfixturevalue("s3_environment")
    return Cold(f"s3://bucket/some/prefix-{time.time_ns()}", timeout_s=10)


def test_what_was_put_is_got(cold: Cold) -> None:
    data = os.urandom(3_000_001)
    assert cold.put("t/blk/a:b@c-d_E.9", data) is True
    assert cold.get("t/blk/a:b@c-d_E.9") == data
    room = memoryview(bytearray(len(data) + 5))
    assert cold.get_into("t/blk/a:b@c-d_E.9", room) == len(data)
    assert room[: len(data)] == data


def test_buffers_are_stored_one_after_another(cold: Cold) -> None:
    cold.put("k", [b"ab", bytearray(b""), memoryview(b"cde")[1:]])
    assert cold.get("k") == b"abde"
    cold.put("empty", b"")
    assert cold.get("empty") == b""


def test_what_is_there_is_left_alone_unless_replaced(cold: Cold) -> None:
    assert cold.put("k", b"first")
    assert cold.put("k", b"second") is False
    assert cold.get("k") == b"first"
    assert cold.put("k", b"third", replace=True) is True
    assert cold.get("k") == b"third"


def test_missing_is_no_error(cold: Cold) -> None:
    assert cold.get("no/thing") is None
    assert cold.get_into("no/thing", memoryview(bytearray(1))) is None
    cold.delete(["no/thing", "nor/this"])
    assert list(cold.list("no")) == []
    assert cold.exists(["no/thing"]) == set()


def test_too_long_for_the_buffer_says_how_much(cold: Cold) -> None:
    cold.put("k", b"12345")
    with pytest.raises(ValueTooLong, match="'k' has 5 bytes, the buffer for it 4") as raised:
        cold.get_into("k", memoryview(bytearray(4)))
    assert (raised.value.length, raised.value.room) == (5, 4)


def test_list_goes_by_whole_words_and_exists_and_delete_agree(cold: Cold) -> None:
    for key in ("a/b/1", "a/b/c/2", "a/bc/3", "d"):
        cold.put(key, key.encode())
    assert sorted(cold.list("a/b")) == sorted(cold.list("a/b/")) == [("a/b/1", 5), ("a/b/c/2", 7)]
    assert sorted(key for key, _ in cold.list("")) == ["a/b/1", "a/b/c/2", "a/bc/3", "d"]
    cold.delete(["a/b/1", "never", "d"])
    assert cold.exists(["a/b/1", "a/b/c/2", "a/bc/3", "d"]) == {"a/b/c/2", "a/bc/3"}
    cold.delete([])


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a b", "a~b", "ä", "a\n", "a\0b"])
def test_bad_keys_are_refused(cold: Cold, key: str) -> None:
    for call in (cold.get, lambda k: cold.put(k, b"x"), lambda k: cold.delete([k]), lambda k: cold.exists([k])):
        with pytest.raises(InvalidInput, match="no key for the cold tier"):
            call(key)


@pytest.mark.parametrize(
    "url", ["", "file://", "file:///", "file://host/path", "cold", "s3://", "s3://key:secret@bucket", "ftp://a/b"]
)
def test_bad_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidInput, match="SHIORI_COLD_URL must be") as raised:
        Cold(url)
    assert "secret@" not in str(raised.value)


def test_one_of_many_writers_stores_and_no_reader_sees_a_piece(tmp_path: Path) -> None:
    cold = Cold(f"file://{tmp_path}/cold")
    seen: list[bytes | None] = []
    stored: list[bool] = []
    data = [bytes([number]) * 200_000 for number in range(8)]

    def write(mine: bytes) -> None:
        stored.append(cold.put("k", mine))
        seen.append(cold.get("k"))

    threads = [threading.Thread(target=write, args=(one,)) for one in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stored) == [False] * 7 + [True]
    assert len(set(seen)) == 1 and seen[0] in data


def test_the_folder_is_its_owners_only_and_holds_nothing_half(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Cold(f"file://{tmp_path}/x/cold").put("t/man/1", b"data")
    finally:
        os.umask(before)
    root = tmp_path / "x" / "cold"
    modes = {path.name: path.stat().st_mode & 0o777 for path in [root, root / "t", root / "t/man", root / "t/man/1"]}
    assert modes == {"cold": 0o700, "t": 0o700, "man": 0o700, "1": 0o600}
    assert list((root / INCOMING).iterdir()) == []


TRACED = "from services.vault.cold import Cold; Cold('file://{}').put('t/a', b'data')"


@pytest.mark.skipif(not Path("/usr/bin/strace").exists(), reason="needs strace")
def test_data_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path: Path) -> None:
    folder = tmp_path / "cold"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,link,linkat,rename", sys.executable, "-c"]
    run = subprocess.run([*command, TRACED.format(folder)], capture_output=True, text=True, timeout=120)
    calls = [line for line in run.stderr.splitlines() if str(folder) in line]
    order = [re.sub(r".*?(fsync|link|rename).*?(incoming/|t>|cold>).*", r"\1 \2", line) for line in calls]
    assert [line for line in order if "incoming/" in line or "t>" in line] == [
        "fsync incoming/", "link incoming/", "fsync t>"
    ], calls  # fmt: skip


LIMITED = """
import resource
from services.vault.cold import Cold, ColdUnavailable
cold = Cold("file://{}")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    cold.put("k", [b"x" * 90_000, b"y" * 90_000])
except ColdUnavailable as error:
    print(error)
"""


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """The kernel takes half and refuses the rest, as a full disk does."""
    run = subprocess.run([sys.executable, "-c", LIMITED.format(tmp_path / "cold")], capture_output=True, text=True)
    assert "cannot be written: OSError EFBIG" in run.stdout, run.stderr
    assert [path for path in (tmp_path / "cold").rglob("*") if path.is_file()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        cold = Cold(f"file://{disk}/cold")
        with pytest.raises(ColdUnavailable, match="ENOSPC, the disk is full"):
            cold.put("t/k", os.urandom(1_000_000))
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        assert cold.put("t/k", b"fits") and cold.get("t/k") == b"fits"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_went_away_is_not_an_empty_one(tmp_path: Path) -> None:
    cold = Cold(f"file://{tmp_path}/cold")
    cold.put("k", b"x")
    (tmp_path / "cold").rename(tmp_path / "unmounted")
    calls = (
        lambda: cold.get("k"),
        lambda: cold.put("k", b"x"),
        lambda: cold.exists(["k"]),
        lambda: list(cold.list("")),
        lambda: cold.delete(["k"]),
    )
    for call in calls:
        with pytest.raises(ColdUnavailable, match="ENOENT"):
            call()
    assert not (tmp_path / "cold").exists()


def test_what_a_killed_writer_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    Cold(f"file://{tmp_path}/cold")
    old, new = tmp_path / "cold" / INCOMING / "old", tmp_path / "cold" / INCOMING / "new"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    cold = Cold(f"file://{tmp_path}/cold")
    assert (old.exists(), new.exists()) == (False, True)
    assert list(cold.list("")) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ColdUnavailable, match="cannot be opened: NotADirectoryError"):
        Cold(f"file://{tmp_path}/file/cold")


def every_call(cold: Cold) -> list[str]:
    said = []
    for call in (
        lambda: cold.get("k"),
        lambda: cold.get_into("k", memoryview(bytearray(9))),
        lambda: cold.put("k", b"x"),
        lambda: cold.put("k", b"x", replace=True),
        lambda: cold.exists(["k"]),
        lambda: list(cold.list("")),
        lambda: cold.delete(["k"]),
    ):
        with pytest.raises(ColdUnavailable) as raised:
            call()
        said.append(str(raised.value))
        assert raised.value.__suppress_context__ and SECRET not in repr(raised.value)
    return said


def test_wrong_keys_are_told_without_showing_them(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET + "x")
    said = every_call(Cold("s3://bucket", timeout_s=5))
    assert said[0] == "the cold tier s3://bucket cannot be read: PermissionDeniedError SignatureDoesNotMatch"


def test_a_server_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, s3_environment: None) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "cannot be read: GenericError Connect" in every_call(Cold("s3://bucket", timeout_s=2))[0]


def test_a_server_that_stalls_ends_in_an_error(monkeypatch: pytest.MonkeyPatch, s3_environment: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ColdUnavailable, match="GenericError Timeout"):
            Cold("s3://bucket", timeout_s=0.5).get("k")


def test_a_bucket_that_is_not_there_is_not_an_empty_one(s3_environment: None) -> None:
    cold = Cold("s3://nobody-made-this", timeout_s=5)
    for call in (
        lambda: cold.get("k"),
        lambda: cold.put("k", b"x"),
        lambda: list(cold.list("")),
        lambda: cold.delete(["k"]),
    ):
        with pytest.raises(ColdUnavailable, match="NoSuchBucket"):
            call()
