"""What things are called in Redis and in the cold tier.

A tenant's keys share one hash slot (`{tenant}`), because the scripts touch several of them.
"""

from __future__ import annotations


def tenant_key(tenant: str, *rest: str) -> str:
    """shiori:{tenant}:head:<session> and the like; heads.py lists them."""
    return ":".join((f"shiori:{{{tenant}}}", *rest))


def block_key(tenant: str, name: str) -> bytes:
    return tenant_key(tenant, "blk", name).encode()


def manifest_key(tenant: str, name: str) -> str:
    return tenant_key(tenant, "man", name)


def counters_key(tenant: str) -> str:
    return tenant_key(tenant, "counters")


def known_key(tenant: str) -> str:
    return tenant_key(tenant, "known")


def cold_key(tenant: str, kind: str, name: str) -> str:
    return f"{tenant}/{kind}/{name}"
