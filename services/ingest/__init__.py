"""Bytes to text with offsets: documents, archives and git trees."""

from importlib import import_module
from typing import Any

from services.ingest.types import LIMITS, Block, Chapter, Checkout, File, IngestError, Limits, Parsed, Symbol

LAZY = {  # parsers load their libraries only where they are used
    "parse_document": "document",
    "parse_repository": "repository",
    "clone_repository": "git",
    "parse_in_child": "child",
}
__all__ = ["LIMITS", "Block", "Chapter", "Checkout", "File", "IngestError", "Limits", "Parsed", "Symbol"]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(name)
    return getattr(import_module(f"services.ingest.{LAZY[name]}"), name)
