"""/v1/model: what is served."""

from fastapi import APIRouter

from services.gateway import schemas as out
from services.gateway.deps import PartsDep, TenantDep
from services.gateway.problems import responses

router = APIRouter(prefix="/model", tags=["model"])


@router.get("", operation_id="get_model", responses=responses(503))
def get_model(here: PartsDep, tenant: TenantDep) -> out.ModelOut:
    reply = here.model(tenant).describe()
    fields = {name: getattr(reply, name) for name in out.ModelOut.model_fields}
    return out.ModelOut(**{**fields, "special_tokens": list(reply.special_tokens)})
