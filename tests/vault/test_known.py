"""What a tenant has read, found by its digests; and token ids, read from no more blocks than they lie in."""

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from services.vault.drafts import LOG_TOKENS, Piece
from services.vault.keeper import Keeper
from services.vault.manifest import Manifest
from services.vault.store import Lost, block_key
from services.vault.vault import Vault
from tests.vault.making import EMPTY, draft, make, opened, whole


def found(
    vault: Vault, places: list[tuple[int, str]], tenant: str = "t", fingerprint: str = "finger"
) -> Manifest | None:
    return vault.find(tenant, fingerprint, places, vault.known(tenant, fingerprint, places))


def test_what_was_read_is_known_to_the_tenant_and_to_nobody_else(vault: Vault) -> None:
    head, manifest = vault.commit("t", opened(vault), draft(EMPTY, 300))
    places = [(64, "aa" * 32), (300, manifest.digest), (364, "bb" * 32)]
    assert vault.known("t", "finger", places) == [None, head.view.manifest, None]
    cut = found(vault, places)
    assert cut and (cut.position, cut.digest) == (300, manifest.digest)
    assert found(vault, places, tenant="u") is None
    assert found(vault, places, fingerprint="another model") is None


def test_alike_is_whole_where_find_is_cut(vault: Vault) -> None:
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 300))
    vault.commit("t", head, draft(one, 200, seed=1))
    places = [(300, one.digest), (400, "aa" * 32)]
    known = vault.known("t", "finger", places)
    cut, other = vault.find("t", "finger", places, known), vault.alike("t", "finger", places, known)
    assert cut and other and (cut.position, other.position) == (300, 500)
    assert vault.alike("t", "finger", places, [None, None]) is None


def test_a_place_without_a_rung_is_known_as_an_end_only(vault: Vault) -> None:
    """Two segments, saved at once: the end of the first has no rung to go on from."""
    wanted, end = draft(EMPTY, 500), "ee" * 32
    pieces = (Piece("one", list(range(200)), 200, end), Piece("two", list(range(300)), 300))
    vault.commit("t", opened(vault), replace(wanted, pieces=pieces))
    places = [(200, end)]
    cut, known = found(vault, places), vault.known("t", "finger", places)
    assert cut and (cut.position, cut.rungs) == (200, ())
    assert vault.find("t", "finger", places, known, rungs_only=True) is None
    assert found(vault, [*places, (264, "aa" * 32)]) is None


def test_a_draft_is_no_head_but_is_known(vault: Vault, keeper: Keeper) -> None:
    head = opened(vault)
    drafted = vault.save_draft("t", head, draft(EMPTY, 512))
    assert vault.head("t", "s").position == 0
    keeper.collect("t")
    cut = found(vault, [(512, drafted.digest)])
    assert cut and whole(vault, cut, seed=0)
    vault.commit("t", head, draft(drafted, 100, seed=1))
    assert vault.head("t", "s").draft == ""


# --- token ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [
        (0, None, [("part 0", 0, 700), ("part 1", 0, 300)]),
        (100, 200, [("part 0", 100, 200)]),
        (600, 800, [("part 0", 600, 700), ("part 1", 0, 100)]),
        (700, 1000, [("part 1", 0, 300)]),
        (999, 5000, [("part 1", 299, 300)]),
        (1000, None, []),
        (300, 300, []),
    ],
)
def test_ids_of_a_stretch(vault: Vault, since: int, until: int | None, wanted: list[tuple[str, int, int]]) -> None:
    head, one = vault.commit("t", opened(vault), draft(EMPTY, 700))
    _, manifest = vault.commit("t", head, draft(one, 300, seed=1))
    assert vault.ids("t", manifest, since, until) == [(label, list(range(a, z))) for label, a, z in wanted]


def test_ids_ask_for_the_blocks_that_overlap_and_no_others(
    vault: Vault, client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    _, manifest = vault.commit("t", opened(vault), draft(EMPTY, 3 * LOG_TOKENS))
    other = make(redis_url, tmp_path, cold=False).vault  # nothing in memory
    first, _, last = manifest.segments[0].log
    client.delete(block_key("t", first.name), block_key("t", last.name))
    ((_, ids),) = other.ids("t", manifest, LOG_TOKENS, 2 * LOG_TOKENS)
    assert ids == list(range(LOG_TOKENS, 2 * LOG_TOKENS))
    for since, until in ((LOG_TOKENS - 1, LOG_TOKENS + 1), (2 * LOG_TOKENS - 1, 2 * LOG_TOKENS + 1)):
        with pytest.raises(Lost):
            other.ids("t", manifest, since, until)
