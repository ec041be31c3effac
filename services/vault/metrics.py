"""What the vault does and holds, for Prometheus. One object per process, handed to whoever has something to tell."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

log = structlog.get_logger(__name__)

TIERS = ("ring", "redis", "cold")
DAMAGES = ("missing", "bytes", "manifest")
REFUSALS = ("provenance", "epoch", "head_moved", "swept", "full", "quota", "fingerprint")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class Stock:
    """What lies where at this moment. Bytes as stored; `redis_max` 0: Redis has no limit."""

    bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (tier, kind)
    blocks: Mapping[str, int] = field(default_factory=dict)  # tier
    tenants: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (tenant, tier)
    redis_used: int = 0
    redis_max: int = 0


class Metrics:
    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._lags: dict[str, tuple[float, int]] = {}
        self._reads = self._counter("reads", "Blocks read, by the tier that had them", "tier")
        self._read_bytes = self._counter("read_bytes", "Bytes of blocks read, as stored", "tier")
        self._restored_tokens = self._counter("restored_tokens", "Tokens whose state came from the vault")
        self._shared_tokens = self._counter("shared_tokens", "Tokens taken over from another reading of the same text")
        self._recomputed_tokens = self._counter("recomputed_tokens", "Tokens computed again because a block was lost")
        self._refused = self._counter("refused", "Writes and states refused", "reason")
        self._damaged = self._counter("damaged", "Blocks found damaged or missing", "tier", "what")
        self._saved_bytes = self._counter("saved_bytes", "Bytes of blocks written to Redis, as stored")
        self._tiered_down_bytes = self._counter("tiered_down_bytes", "Bytes copied to the cold tier")
        self._freed_bytes = self._counter("freed_bytes", "Bytes freed in Redis and the cold tier")
        self._restore_seconds = self._histogram("restore_seconds", "From the vault into the engine's memory")
        self._save_seconds = self._histogram("save_seconds", "From exported state to a head that names it")
        self._start_at_zero()

    # ---- what happened -------------------------------------------------------------------------------------------

    def read(self, tier: str, size: int) -> None:
        """A block came from this tier; `size` in bytes."""
        self._reads.labels(tier).inc()
        self._read_bytes.labels(tier).inc(size)

    def restored(self, seconds: float, tokens: int) -> None:
        self._restore_seconds.observe(seconds)
        self._restored_tokens.inc(tokens)

    def shared(self, tokens: int) -> None:
        self._shared_tokens.inc(tokens)

    def recomputed(self, tokens: int) -> None:
        self._recomputed_tokens.inc(tokens)

    def saved(self, size: int, seconds: float) -> None:
        self._saved_bytes.inc(size)
        self._save_seconds.observe(seconds)

    def tiered_down(self, size: int) -> None:
        self._tiered_down_bytes.inc(size)

    def freed(self, size: int) -> None:
        self._freed_bytes.inc(size)

    def refused(self, reason: str) -> None:
        """`reason` is one of REFUSALS."""
        self._refused.labels(_one_of(REFUSALS, reason)).inc()

    def damaged(self, tier: str, what: str) -> None:
        """`tier` is one of TIERS, `what` one of DAMAGES."""
        self._damaged.labels(_one_of(TIERS, tier), _one_of(DAMAGES, what)).inc()

    def all_damaged(self) -> int:
        """Blocks found damaged or missing since the start."""
        return int(sum(s.value for m in self._damaged.collect() for s in m.samples if s.name.endswith("_total")))

    def lag(self, reading: str, seconds: float, tokens: int) -> None:
        """What a kill would cost this running reading now; the worst of all is shown. Nothing (0, 0) forgets it."""
        if seconds or tokens:
            self._lags[reading] = (seconds, tokens)
        else:
            self._lags.pop(reading, None)

    # ---- what is asked at a scrape -------------------------------------------------------------------------------

    def watch(self, report: Callable[[], Stock], fresh_s: float = 60.0) -> None:
        """`report` is called at a scrape, not more often than `fresh_s`: it may list a bucket. Once per object."""
        self.registry.register(_Gauges(report, fresh_s))

    def serve(self, address: str) -> Callable[[], None]:
        """Answers GET /metrics at "host:port" from a thread of its own ("": nowhere). Returns what ends that."""
        if not address:
            return lambda: None
        host, port = _host_and_port(address)
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise OSError(f"SHIORI_METRICS_ADDRESS {address}: {error.strerror}; choose another, or none") from error

        def close() -> None:
            server.shutdown()
            server.server_close()

        return close

    # ---- making --------------------------------------------------------------------------------------------------

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"shiori_vault_{name}", says, labels, registry=self.registry)

    def _histogram(self, name: str, says: str) -> Histogram:
        return Histogram(f"shiori_vault_{name}", says, registry=self.registry, buckets=SECONDS)

    def _start_at_zero(self) -> None:
        """A rate over a series that appears with its first event misses that event."""
        for tier in TIERS:
            self._reads.labels(tier)
            self._read_bytes.labels(tier)
            for what in DAMAGES:
                self._damaged.labels(tier, what)
        for reason in REFUSALS:
            self._refused.labels(reason)
        self.registry.register(_Lag(self._lags))


class _Lag:
    def __init__(self, lags: Mapping[str, tuple[float, int]]) -> None:
        self._lags = lags

    def collect(self) -> Iterator[Metric]:
        lags = list(self._lags.values())
        seconds = max((seconds for seconds, _ in lags), default=0.0)
        tokens = max((tokens for _, tokens in lags), default=0)
        yield _gauge("watermark_lag_seconds", "Computing that a kill would cost now, worst reading", seconds)
        yield _gauge("watermark_lag_tokens", "Tokens that a kill would cost now, worst reading", tokens)


class _Gauges:
    def __init__(self, report: Callable[[], Stock], fresh_s: float) -> None:
        self._report, self._fresh_s = report, fresh_s
        self._stock: Stock | None = None
        self._asked = 0.0

    def collect(self) -> Iterator[Metric]:
        """With Redis away the gauges are absent and everything else is still told."""
        if self._stock is None or time.monotonic() - self._asked >= self._fresh_s:
            self._stock, self._asked = self._now(), time.monotonic()
        yield from _gauges_of(self._stock) if self._stock else ()

    def _now(self) -> Stock | None:
        try:
            return self._report()
        except Exception as error:
            log.warning("metrics_incomplete", why=type(error).__name__)
            return None


def _gauges_of(stock: Stock) -> Iterator[Metric]:
    yield _family("bytes", "Bytes held, as stored", ("tier", "kind"), stock.bytes.items())
    yield _family("blocks", "Blocks held", ("tier",), (((tier,), count) for tier, count in stock.blocks.items()))
    yield _family(
        "tenant_bytes", "Bytes that count towards a tenant's quota", ("tenant", "tier"), stock.tenants.items()
    )
    yield _gauge("redis_used_bytes", "Redis' used_memory", stock.redis_used)
    yield _gauge("redis_max_bytes", "Redis' maxmemory, or SHIORI_VAULT_MAX_MB; 0: no limit", stock.redis_max)


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"shiori_vault_{name}", says, value=value)


def _family(name: str, says: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], int]]) -> Metric:
    family = GaugeMetricFamily(f"shiori_vault_{name}", says, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _one_of(known: tuple[str, ...], value: str) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise ValueError(f"SHIORI_METRICS_ADDRESS {address!r} is not host:port, such as 127.0.0.1:9464")
    return host, port
