"""/v1/usage: what the caller's readings take, tier by tier."""

from fastapi import APIRouter

from services.gateway import schemas as out
from services.gateway.deps import PartsDep, TenantDep
from services.gateway.problems import responses

router = APIRouter(prefix="/usage", tags=["usage"])


@router.get("", operation_id="get_usage", responses=responses(503))
def get_usage(here: PartsDep, tenant: TenantDep) -> out.UsageOut:
    """Bytes in each tier, the quota, and how many readings there are. 503 while the engine is away."""
    report = here.model(tenant).vault_report()
    tiers = [
        out.TierOut(name=tier.name, blocks=tier.blocks, bytes=tier.bytes, limit_bytes=tier.limit_bytes or None)
        for tier in report.tiers
    ]
    return out.UsageOut(
        readings=report.sessions,
        cold_readings=report.cold_sessions,
        used_bytes=report.used_bytes,
        quota_bytes=report.quota_bytes or None,
        tiers=tiers,
    )
