#!/usr/bin/env bash
# var/compose.env: passwords made here and now, kept when they are there. Readable by its owner only.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
file=${1:-$ROOT/var/compose.env}
[ -s "$file" ] && exit 0
mkdir -p "$(dirname "$file")"
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
cat >"$file" <<END
COMPOSE_PROFILES=${PROFILE:-cpu}
POSTGRES_PASSWORD=$(secret)
REDIS_PASSWORD=$(secret)
# Ask for a key: SHIORI_API_KEY=…   Another address: SHIORI_BIND=… SHIORI_PORT=…   Another model: SHIORI_MODEL_DIR=…
END
say "made $file"
