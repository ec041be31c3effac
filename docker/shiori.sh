#!/bin/sh
# `docker compose exec inference shiori vault show`
exec python -m services.cli "$@"
