"""/v1/search: full text over the blocks of some sources."""

from fastapi import APIRouter

from services.gateway import schemas as out
from services.gateway import show
from services.gateway.deps import PartsDep, TenantDep
from services.gateway.problems import responses
from services.library import search

router = APIRouter(prefix="/search", tags=["search"])


@router.post("", operation_id="search", responses=responses(404, 422))
def search_sources(here: PartsDep, tenant: TenantDep, body: out.SearchNew) -> out.Listed[out.SearchHit]:
    """Blocks that share most with the query (BM25), best first."""
    with here.database.read() as db:
        hits = search.search(db, here.settings.index_dir, tenant, body.source_ids, body.query, body.limit)
    return out.Listed(data=[show.hit(hit.source_id, hit.block, hit.score) for hit in hits])
