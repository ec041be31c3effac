#!/usr/bin/env bash
# var/compose.env: passwords and the vault's master key, made here and now, kept when they are there; what an older file
# lacks is added. Readable by its owner only. Back it up: without the key, saved readings are noise.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
file=${1:-$ROOT/var/compose.env}
umask 077
mkdir -p "$(dirname "$file")"
[ -e "$file" ] || made=1
touch "$file"
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"  # an editor may have left the last line open

secret() { od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
half_of_memory() { awk '/^MemTotal:/{print int($2 / 2048)}' /proc/meminfo; }
keep() { grep -q "^$1=" "$file" || echo "$1=$2" >>"$file"; }

keep COMPOSE_PROFILES "${PROFILE:-cpu}"
keep POSTGRES_PASSWORD "$(secret 24)"
keep REDIS_PASSWORD "$(secret 24)"
keep SHIORI_VAULT_KEY "$(secret 32)"
keep SHIORI_REDIS_MAX_MB "$(half_of_memory)"
[ -z "${made:-}" ] || cat >>"$file" <<'END'
# Ask for a key: SHIORI_API_KEY=…   Another address: SHIORI_BIND=… SHIORI_PORT=…   Another model: SHIORI_MODEL_DIR=…
# The cold tier in S3 instead of the volume `cold`: see docs/operations.md
END
[ -z "${made:-}" ] || say "made $file"
