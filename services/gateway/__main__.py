"""`python -m services.gateway`: serves HTTP on SHIORI_HOST:SHIORI_PORT."""

import sys

import uvicorn

from services import log
from services.gateway.app import create_app
from services.library.db import Database
from services.settings import Settings

GRACE_SECONDS = 5


def main() -> None:
    settings = Settings()
    log.configure("gateway", settings)
    try:
        Database(settings.database_url).check_revision()
    except RuntimeError as error:
        sys.exit(str(error))
    if not settings.api_keys() and settings.host not in ("127.0.0.1", "localhost", "::1"):
        log.get_logger(__name__).warning("open_to_everybody", host=settings.host, advice="set SHIORI_API_KEY")
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
