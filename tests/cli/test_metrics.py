import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.vault.metrics import Metrics, Stock
from tests.conftest import free_port


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def metrics(address: str) -> Iterator[Metrics]:
    metrics = Metrics()
    close = metrics.serve(address)
    yield metrics
    close()


def scrape(address: str) -> dict[tuple[str, ...], float]:
    """Over HTTP, as Prometheus does: name and label values (in the labels' order) -> value."""
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name.removeprefix("shiori_vault_"), *s.labels.values()): s.value for s in samples}


def test_what_happened_is_counted(metrics: Metrics, address: str) -> None:
    metrics.read("redis", 2_000)
    metrics.read("redis", 1_000)
    metrics.restored(seconds=0.02, tokens=512)
    metrics.saved(4_096, seconds=0.3)
    metrics.refused("quota")
    metrics.damaged("cold", "bytes")
    seen = scrape(address)
    assert (seen["reads_total", "redis"], seen["read_bytes_total", "redis"]) == (2, 3_000)
    assert (seen["restored_tokens_total",], seen["restore_seconds_count",]) == (512, 1)
    assert (seen["saved_bytes_total",], seen["save_seconds_sum",]) == (4_096, 0.3)
    assert (seen["refused_total", "quota"], seen["damaged_total", "cold", "bytes"]) == (1, 1)


def test_what_never_happened_is_told_as_zero(metrics: Metrics, address: str) -> None:
    seen = scrape(address)
    assert seen["damaged_total", "redis", "missing"] == seen["refused_total", "provenance"] == 0
    assert seen["watermark_lag_seconds",] == 0


def test_the_worst_lag_is_shown_until_that_reading_is_saved(metrics: Metrics, address: str) -> None:
    metrics.lag("a", 1.5, 700)
    metrics.lag("b", 4.0, 90)
    assert (scrape(address)["watermark_lag_seconds",], scrape(address)["watermark_lag_tokens",]) == (4.0, 700)
    metrics.lag("b", 0, 0)
    assert scrape(address)["watermark_lag_seconds",] == 1.5


def test_the_stock_is_asked_at_a_scrape(metrics: Metrics, address: str) -> None:
    stock = [Stock(bytes={("redis", "page"): 10}, tenants={("alice", "cold"): 7}, redis_max=99)]
    metrics.watch(lambda: stock[-1], fresh_s=0)
    assert scrape(address)["bytes", "page", "redis"] == 10
    stock.append(Stock(blocks={"cold": 3}))
    seen = scrape(address)
    assert ("bytes", "page", "redis") not in seen
    assert seen["blocks", "cold"] == 3


def test_the_stock_is_not_asked_at_every_scrape(metrics: Metrics, address: str) -> None:
    stocks = iter([Stock(redis_used=1), Stock(redis_used=2)])
    metrics.watch(lambda: next(stocks), fresh_s=1000)
    assert [scrape(address)["redis_used_bytes",] for _ in range(3)] == [1, 1, 1]


def test_damages_are_counted_whatever_they_are(metrics: Metrics) -> None:
    metrics.damaged("redis", "bytes")
    metrics.damaged("cold", "missing")
    assert metrics.all_damaged() == 2


def test_a_stock_that_cannot_be_told_hides_nothing_else(metrics: Metrics, address: str) -> None:
    def away() -> Stock:
        raise ConnectionError

    metrics.watch(away)
    metrics.shared(5)
    seen = scrape(address)
    assert ("redis_used_bytes",) not in seen
    assert seen["shared_tokens_total",] == 5


def test_an_unknown_reason_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="'tired' is none of provenance, epoch"):
        Metrics().refused("tired")


def test_nowhere_to_serve_is_no_error() -> None:
    Metrics().serve("")()


def test_a_bad_or_taken_address_says_which_setting_to_change(metrics: Metrics, address: str) -> None:
    with pytest.raises(ValueError, match="SHIORI_METRICS_ADDRESS '9464' is not host:port"):
        Metrics().serve("9464")
    with pytest.raises(OSError, match=r"SHIORI_METRICS_ADDRESS .* in use"):
        Metrics().serve(address)
