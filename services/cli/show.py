"""What the engine says, as tables for people and as JSON for programs."""

import json
import time
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from rich.table import Table

from services.inference.pb import inference_pb2 as pb

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def as_dict(message: Message) -> dict[str, Any]:
    """Every field by its name, numbers as numbers (protobuf's own JSON writes 64-bit ones as strings)."""
    fields = message.DESCRIPTOR.fields
    return {field.name: _value(getattr(message, field.name), field.is_repeated) for field in fields}


def _value(value: Any, repeated: bool) -> Any:
    if repeated:
        return [_value(item, False) for item in value]
    return as_dict(value) if isinstance(value, Message) else value


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2)


def size(count: float) -> str:
    """In powers of ten, three digits: 1.23 GB."""
    power = 0
    while count >= 999.5 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {UNITS[power]}"


def moment(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) if ms else ""


def tiers(report: pb.VaultReport) -> Table:
    table = _table("tier", "where", "blocks", "bytes", "limit", numbers=3)
    for tier in report.tiers:
        limit = size(tier.limit_bytes) if tier.limit_bytes else ""
        table.add_row(tier.name, tier.where, f"{tier.blocks:,}", size(tier.bytes), limit)
    return table


def facts(report: pb.VaultReport) -> Table:
    rows = {
        "sessions": f"{report.sessions:,}, {report.cold_sessions:,} of them in the cold tier only",
        "quota": _of(report.used_bytes, report.quota_bytes),
        "Redis": _of(report.redis_used_bytes, report.redis_max_bytes),
        "durability": report.durability,
        "master key": report.key_id,
        "damaged": f"{report.damaged:,} blocks since the engine started",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _of(used: int, limit: int) -> str:
    return f"{size(used)} of {size(limit)}" if limit else f"{size(used)}, no limit"


def findings(found: Sequence[pb.VaultFinding], mending: bool) -> Table:
    last = ("mended",) if mending else ()
    table = _table("session", "block", "kind", "tier", "what", *last)
    for finding in found:
        row = (finding.session_id, finding.block[:16], finding.kind, finding.tier, finding.what)
        table.add_row(*row, *((finding.mended or "no",) if mending else ()))
    return table


def history(entries: Sequence[pb.VaultHistoryEntry]) -> Table:
    table = _table("left", "reason", "kept until", "digest", "position", numbers=1)
    for entry in entries:
        times = moment(entry.left_ms), entry.reason, moment(entry.until_ms)
        table.add_row(*times, entry.head.digest, f"{entry.head.position:,}")
    return table


def _table(*names: str, numbers: int = 0) -> Table:
    """The last `numbers` columns stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index >= len(names) - numbers else "left", overflow="fold")
    return table
