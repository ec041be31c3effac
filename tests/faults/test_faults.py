"""Each fault a few times. The long form is `make faults KILLS=1000 FLIPS=10000`."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import plain_logs
from tests.faults.book import Broken
from tests.faults.flips import GOOD, Flips
from tests.faults.runner import FAULTS
from tests.faults.starve import NoSmallDisk
from tests.faults.world import Lab

STRIKES = {"kill_engine": 8, "kill_mid_read": 3, "kill_redis": 3, "two_resumers": 2, "zombie": 2}
STRIKES |= {"delete_blocks": 3, "truncate": 3, "swap_blocks": 3, "cut_aof": 3}
FLIPS = 100


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    plain_logs()
    lab = Lab(tmp_path_factory.mktemp("faults"))
    yield lab
    lab.stop()


@pytest.mark.parametrize("name", [name for name in FAULTS if name != Flips.name])
def test_no_session_is_lost_or_mixed(lab: Lab, name: str) -> None:
    """After each strike every session opens on a fresh engine and goes on as the control does."""
    try:
        fault = FAULTS[name](lab, random.Random(name))
    except NoSmallDisk as why:
        pytest.skip(str(why))
    outcome: Counter[str] = Counter()
    try:
        for number in range(STRIKES.get(name, 1)):
            outcome += fault.strike(random.Random(f"{name} {number}"))
    finally:
        fault.stop()
    assert outcome.total() > 0


def test_no_flipped_bit_reaches_an_answer(lab: Lab) -> None:
    flips = Flips(lab, random.Random("flips"))
    outcome: Counter[str] = Counter()
    try:
        for number in range(FLIPS):
            outcome += flips.strike(random.Random(f"flips {number}"))
    finally:
        flips.stop()
    bad = {kind: count for kind, count in outcome.items() if "." not in kind and kind not in GOOD}
    assert not bad, "\n".join(flips.examples)


# --- the harness itself: it must see what it looks for ----------------------------------------------------------------


def test_a_store_that_goes_back_is_seen(lab: Lab) -> None:
    """Redis from before some work, the book from after it."""
    world, dice = lab.world(), random.Random(1)
    try:
        world.work(dice, 8)
        before = world.store.dump()
        world.work(dice, 8)
        world.end_life()  # what it still writes would get in between
        world.store.load(before)
        world.fresh()
        with pytest.raises(Broken, match="lost"):
            world.check(dice)
    finally:
        world.stop()


def test_a_block_that_is_gone_is_seen(lab: Lab) -> None:
    """A head that names what is not there does not pass for whole after a kill."""
    world, dice = lab.world(), random.Random(2)
    try:
        world.work(dice, 8)
        world.fresh()
        world.check(dice)
        world.store.client.delete(*world.store.keys("blk"))
        world.fresh()
        with pytest.raises(Broken, match="lost"):
            world.check(dice)
    finally:
        world.stop()


def test_one_tenants_sessions_in_anothers_name_are_seen(lab: Lab) -> None:
    """As a vault that mixed tenants would show them; here the books are exchanged instead."""
    world, dice = lab.world(), random.Random(3)
    try:
        world.work(dice, 8)
        anna, bert = world.books.values()
        anna.possible, bert.possible = bert.possible, anna.possible
        world.fresh()
        with pytest.raises(Broken, match=r"lost|mixed"):
            world.check(dice)
    finally:
        world.stop()
