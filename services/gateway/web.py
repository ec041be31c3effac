"""The built web page at /, and a sentence for each problem code. Whatever no route takes ends here."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.errors import NotFound, ShioriError

NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Shiori</title>
<h1>Shiori</h1><p>The web page is not built. Run <code>make web</code>, then load this page again.</p>
<p>The API is here: <a href="/openapi.json">/openapi.json</a>, <a href="/readyz">/readyz</a>.</p></html>"""
FOREVER = "public, max-age=31536000, immutable"


def fallback(web_dir: Path) -> ASGIApp:
    """For the router's `default`."""
    root = web_dir.resolve()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await _page(Request(scope), root)(scope, receive, send)

    return answer


def _page(request: Request, root: Path) -> Response:
    path = request.url.path
    if request.method not in ("GET", "HEAD") or path.startswith("/v1/") or "\x00" in path:
        raise NotFound(f"There is nothing at {path}.")
    if path.startswith("/problems/"):
        return _explain(path.removeprefix("/problems/"))
    if found := _file(root, path):
        cache = FOREVER if path.startswith("/assets/") else "no-cache"
        return FileResponse(found, headers={"Cache-Control": cache})
    if "." in path.rsplit("/", 1)[-1]:
        raise NotFound(f"There is nothing at {path}.")
    return _index(root)


def _file(root: Path, path: str) -> Path | None:
    """A file under root, and nothing outside of it."""
    found = (root / path.lstrip("/")).resolve()
    return found if found.is_file() and found.is_relative_to(root) else None


def _index(root: Path) -> Response:
    index = root / "index.html"
    if index.is_file():
        return FileResponse(index, headers={"Cache-Control": "no-cache"})
    return HTMLResponse(NOT_BUILT)


def _explain(code: str) -> Response:
    for kind in _tree(ShioriError):
        if kind.code == code:
            return HTMLResponse(f"<!doctype html><title>{code}</title><h1>{kind.title}</h1><p>{kind.__doc__}</p>")
    raise NotFound("No such problem.")


def _tree(kind: type[ShioriError]) -> list[type[ShioriError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _tree(child))]
