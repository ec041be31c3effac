"""Parsed and its kin to JSON and back: what passes between a parser's process and ours. No pickle."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from services.ingest import types
from services.ingest.types import Block, Parsed

KNOWN = (types.Block, types.Chapter, types.File, types.Symbol, types.Parsed, types.Checkout, types.Known, types.Limits)
CLASSES: dict[str, Callable[..., Any]] = {c.__name__: c for c in KNOWN}


def encode(value: Any) -> Any:
    if isinstance(value, Path):
        return {"$": "Path", "of": [str(value)]}
    if isinstance(value, Block):
        return {"$": "Block", "of": [value.ordinal, value.kind, None, *values(value)[3:]]}  # its text is in the whole
    if is_dataclass(value):
        return {"$": type(value).__name__, "of": [encode(v) for v in values(value)]}
    return [encode(v) for v in value] if isinstance(value, (list, tuple)) else value


def values(value: Any) -> list[Any]:
    return [getattr(value, f.name) for f in fields(value)]


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value["$"] == "Path":
        return Path(value["of"][0])
    if value["$"] == "Parsed":
        return parsed(value["of"])
    return CLASSES[value["$"]](*[tuple(v) if isinstance(v, list) else v for v in value["of"]])


def parsed(items: list[Any]) -> Parsed:
    kind, title, text, blocks, *rest = items
    whole = [dict(b, of=[*b["of"][:2], text[slice(*b["of"][3])], *b["of"][3:]]) for b in blocks]
    return Parsed(kind, title, text, decode(whole), *map(decode, rest))
