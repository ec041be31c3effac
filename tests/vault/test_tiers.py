"""Tiers: what is moved down comes back from there, from a folder and from a real S3 server."""

import time
from pathlib import Path

import pytest
import redis

from services import errors
from services.vault.audit import Audit
from services.vault.keeper import Keeper
from services.vault.keys import KeyProblem
from services.vault.names import tenant_key
from tests.vault.making import EMPTY, blocks, draft, make, opened, whole


@pytest.fixture(params=["file", "s3"])
def cold_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/cold"
    request.getfixturevalue("s3_environment")
    return f"s3://bucket/tiers-{time.time_ns()}"


@pytest.fixture
def keeper(redis_url: str, tmp_path: Path, cold_url: str) -> Keeper:
    return make(redis_url, tmp_path, cold_url=cold_url)


def again(redis_url: str, tmp_path: Path, cold_url: str) -> Keeper:
    """Another process."""
    return make(redis_url, tmp_path, cold_url=cold_url)


def test_a_session_moves_down_and_comes_back(
    keeper: Keeper, client: redis.Redis, redis_url: str, tmp_path: Path, cold_url: str
) -> None:
    head, manifest = keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 700), bookmark="one")
    sessions, size = keeper.tier_down("t")
    assert sessions == 1 and size >= manifest.stored_bytes
    assert not blocks(client) and not blocks(client, "*:man:*")
    other = again(redis_url, tmp_path, cold_url)
    assert other.vault.head("t", "s").cold
    assert whole(other.vault, other.vault.at("t", other.vault.head("t", "s").view), seed=0)
    assert len(blocks(client)) > 0  # on its way it was put back
    assert head.digest == other.vault.head("t", "s").digest


def test_what_a_hot_fork_shares_stays(keeper: Keeper, client: redis.Redis) -> None:
    keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 700))
    keeper.vault.heads.fork("t", "s", "fork", "")
    before = blocks(client)
    keeper.tier_down("t", "s")
    assert blocks(client) == before
    keeper.tier_down("t", "fork")
    assert not blocks(client)


def test_tokens_and_head_are_down_at_once_and_bring_a_lost_session_back(
    keeper: Keeper, client: redis.Redis, redis_url: str, tmp_path: Path, cold_url: str
) -> None:
    """Redis dies before anything else was copied: the tokens are there, so nothing is lost but time."""
    head, _ = keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 700), bookmark="one")
    keeper.back_up("t", "s")
    client.flushall()
    vault = again(redis_url, tmp_path, cold_url).vault
    found = vault.head("t", "s")
    assert found.digest == head.digest
    assert vault.ids("t", vault.at("t", found.view)) == [("part 0", list(range(700)))]
    assert [mark.name for mark in vault.marks("t", "s")] == ["one"]


def test_recover_brings_all_back_and_touches_none_that_is_there(
    keeper: Keeper, client: redis.Redis, redis_url: str, tmp_path: Path, cold_url: str
) -> None:
    for n in range(3):
        keeper.vault.commit("t", opened(keeper.vault, f"s{n}"), draft(EMPTY, 300, seed=n))
    keeper.tier_down("t")
    client.flushall()
    other = again(redis_url, tmp_path, cold_url)
    opened(other.vault, "s1")
    assert other.recover("t") == (2, 1)
    assert whole(other.vault, other.vault.at("t", other.vault.head("t", "s2").view), seed=2)
    assert other.vault.head("t", "s1").position == 0


def test_what_was_deleted_does_not_come_back(
    keeper: Keeper, client: redis.Redis, redis_url: str, tmp_path: Path, cold_url: str
) -> None:
    keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 300))
    keeper.tier_down("t")
    keeper.delete("t", "s")
    client.flushall()
    assert again(redis_url, tmp_path, cold_url).recover("t") == (0, 0)
    with pytest.raises(errors.NotFound):
        again(redis_url, tmp_path, cold_url).vault.head("t", "s")


def test_a_damaged_block_is_never_copied_down(keeper: Keeper, client: redis.Redis) -> None:
    """The session stays where it is, and verify says why."""
    keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 700))
    key = blocks(client)[0]
    client.setrange(key, 100, b"\xff\x00\xff")
    assert keeper.tier_down("t")[0] == 0
    assert client.exists(key)
    found = [finding for finding in Audit(keeper, "memory").verify("t") if finding.what]
    assert [(finding.tier, finding.what) for finding in found] == [("redis", "bytes")]


def test_what_is_deleted_while_all_is_verified_is_not_missing(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    for session in ("s1", "s2"):
        keeper.vault.commit("t", opened(keeper.vault, session), draft(EMPTY, 700, seed=int(session[1])))
    audit = Audit(keeper, "memory")
    copies = audit._copies

    def deleted_meanwhile(*arguments: str) -> dict[str, bytes | None]:
        keeper.delete("t", "s1")
        keeper.delete("t", "s2")
        keeper.collect("t")
        return copies(*arguments)

    monkeypatch.setattr(audit, "_copies", deleted_meanwhile)
    assert not [finding for finding in audit.verify("t") if finding.what]
    with pytest.raises(errors.NotFound):
        list(audit.verify("t", "s1"))


def test_a_missing_block_of_a_session_in_use_is_told_once(
    keeper: Keeper, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 700))
    client.delete(blocks(client)[0])
    audit = Audit(keeper, "memory")
    copies = audit._copies

    def in_use(*arguments: str) -> dict[str, bytes | None]:
        client.hincrby(tenant_key("t", "head", "s"), "used_ms", 1)
        return copies(*arguments)

    monkeypatch.setattr(audit, "_copies", in_use)
    assert [finding.what for finding in audit.verify("t") if finding.what] == ["missing"]


def test_idle_sessions_are_copied_and_then_moved_by_the_rounds(
    redis_url: str, tmp_path: Path, cold_url: str, client: redis.Redis
) -> None:
    settled = make(redis_url, tmp_path, cold_url=cold_url, settled_s=-1.0)
    settled.vault.commit("t", opened(settled.vault), draft(EMPTY, 700))
    settled.rounds.once()
    assert blocks(client) and not settled.vault.head("t", "s").cold
    idle = make(redis_url, tmp_path, cold_url=cold_url, settled_s=-1.0, hot_days=-1.0)
    idle.rounds.once()
    assert not blocks(client) and idle.vault.head("t", "s").cold


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_rotated_master_key_opens_what_the_old_one_wrapped(keeper: Keeper, redis_url: str, tmp_path: Path) -> None:
    _, manifest = keeper.vault.commit("t", opened(keeper.vault), draft(EMPTY, 300))
    old, new = (tmp_path / "vault.key").read_text().strip(), "ab" * 32
    rotating = make(redis_url, tmp_path, key=f"{new}\n{old}")
    rotating.rounds.rewrap()
    only_new = make(redis_url, tmp_path, key=new)
    assert whole(only_new.vault, manifest, seed=0)
    with pytest.raises(KeyProblem, match="wrapped by master key"):
        make(redis_url, tmp_path, key=old).vault.keys.of("t")


def test_a_key_file_is_made_for_its_owner_only(keeper: Keeper, tmp_path: Path) -> None:
    assert (tmp_path / "vault.key").stat().st_mode & 0o777 == 0o600
    assert "'" not in repr(keeper.vault.keys.newest) or keeper.vault.keys.newest.raw.hex() not in repr(
        keeper.vault.keys.newest
    )


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_bad_master_key_is_named_without_being_shown(redis_url: str, tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyProblem) as problem:
        make(redis_url, tmp_path, key=text or " ", key_file=None)
    assert not text or text not in str(problem.value)
