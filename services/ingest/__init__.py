"""Bytes to text with offsets: documents, archives and git trees.

`parse_document`, `parse_repository`, `clone_repository`, `segments` and `parse_in_child`; types.py has what they give.
"""

from services.ingest.types import Block, Chapter, Checkout, File, IngestError, Limits, Parsed, Symbol

__all__ = ["Block", "Chapter", "Checkout", "File", "IngestError", "Limits", "Parsed", "Symbol"]
