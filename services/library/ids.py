"""Opaque ids: a type prefix and 128 random bits."""

import secrets


def new_id(prefix: str) -> str:
    """`new_id("doc")` -> "doc_" and 22 url-safe characters."""
    return f"{prefix}_{secrets.token_urlsafe(16)}"
