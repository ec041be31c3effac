#!/bin/sh
# `docker compose exec gateway shiori vault show`
exec python -m services.cli "$@"
