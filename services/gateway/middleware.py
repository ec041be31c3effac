"""What every request passes, as plain ASGI: request id and log line, security headers, body limit, origin check."""

import re
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi.exceptions import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import errors, log
from services.gateway import problems

logger = log.get_logger("services.gateway")

REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
JSON_LIMIT = 1_000_000
FORM_SLACK = 100_000  # boundaries and headers around the file
UPLOADS = re.compile(r"/v1/(documents|repositories)/?")
SAFE = {"GET", "HEAD", "OPTIONS"}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Text of documents and answers is shown in pages: nothing from elsewhere may load or run.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}


class RequestContext:
    """Takes the caller's X-Request-ID or makes one, binds it to the logs, answers with it, writes one line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else log.new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        with log.bound(request_id=request_id):
            await self._answer(scope, receive, send, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started, status = time.perf_counter(), 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except Exception as error:
            logger.exception("request_crashed", path=scope["path"])
            if status:
                raise
            await problems.response(errors.wrap(error), scope["path"], request_id)(scope, receive, with_headers)
        finally:
            ms = round((time.perf_counter() - started) * 1000, 1)
            quiet = scope["path"] in ("/livez", "/readyz")
            say = logger.debug if quiet else logger.info
            say("request", method=scope["method"], path=scope["path"], status=status, ms=ms)


class BodyLimit:
    """Counts while the body streams in; a declared length that is too large is refused before the first byte."""

    def __init__(self, app: ASGIApp, upload_bytes: int) -> None:
        self.app, self.upload_bytes = app, upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE:
            return await self.app(scope, receive, send)
        upload = UPLOADS.fullmatch(scope["path"])
        limit = self.upload_bytes + FORM_SLACK if upload else JSON_LIMIT
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            error = too_large(self.upload_bytes if upload else limit)
            return await problems.response(error, scope["path"], scope["state"]["request_id"])(scope, receive, send)
        await self.app(scope, _counting(receive, limit), send)


def too_large(limit: int) -> errors.TooLarge:
    return errors.TooLarge(f"This server takes at most {limit:,} bytes here.", limit=limit)


def _counting(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:  # an HTTPException is the one thing FastAPI lets through while it parses a form
            raise HTTPException(413, f"This server takes at most {limit:,} bytes here.")
        return message

    return counted


class SameOrigin:
    """A page of another site may not make changes here, with or without a key."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE and _foreign(Headers(scope=scope)):
            error = errors.ShioriError("Another site's page may not call this.", code="cross_origin")
            error.status, error.title = 403, "Forbidden"
            return await problems.response(error, scope["path"], scope["state"]["request_id"])(scope, receive, send)
        await self.app(scope, receive, send)


def _foreign(headers: Headers) -> bool:
    origin, host = headers.get("origin"), headers.get("host", "")
    if not origin:
        return False
    theirs, ours = _host(origin), _host(f"//{host}")
    return urlsplit(origin).netloc != host and not (theirs in LOOPBACK and ours in LOOPBACK)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def install(app: Any, upload_bytes: int) -> None:
    """The last one added is the first one passed."""
    app.add_middleware(BodyLimit, upload_bytes=upload_bytes)
    app.add_middleware(SameOrigin)
    app.add_middleware(RequestContext)
