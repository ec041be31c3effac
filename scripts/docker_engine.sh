#!/usr/bin/env bash
# A Docker engine for the container test, on a Debian machine that has none running: a private dockerd with its own
# folder and socket, which leaves the host's firewall and any other engine alone.
#   docker_engine.sh up      installs and starts it; prints the DOCKER_HOST to use
#   docker_engine.sh base    imports the image shiori-test/base, made without any registry
#   docker_engine.sh down
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
STATE=${SHIORI_DOCKER_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/shiori-docker}
export DOCKER_HOST=unix://$STATE/docker.sock
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

answers() { docker version >/dev/null 2>&1; }

up() {
  [ "$(id -u)" = 0 ] || { echo "an engine can only be started as root"; return 1; }
  have dockerd || apt_install docker.io iptables || { echo "Debian's docker.io could not be installed"; return 1; }
  mkdir -p "$STATE"
  answers || start
  answers || { echo "dockerd does not start: $(tail -n 3 "$STATE/log" | tr '\n' ' ')"; return 1; }
  echo "$DOCKER_HOST"
}

start() {
  setsid nohup dockerd --data-root "$STATE/data" --exec-root "$STATE/exec" --pidfile "$STATE/pid" -H "$DOCKER_HOST" \
    --iptables=false --ip6tables=false --ip-forward=false >"$STATE/log" 2>&1 </dev/null &
  local dockerd=$!
  for _ in $(seq 120); do
    answers && return 0
    kill -0 "$dockerd" 2>/dev/null || return 0
    sleep 0.25
  done
}

# Debian itself, as an image. The host's own certificates go along: a proxy may sign what a build downloads.
base() {
  docker image inspect shiori-test/base >/dev/null 2>&1 && return
  have mmdebstrap || apt_install mmdebstrap
  local mirror; mirror=$(awk '/^URIs:/{print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null || true)
  [ -s "$STATE/base.tar" ] || {
    mmdebstrap --quiet --variant=apt --include=ca-certificates,python3,python3-venv,git,redis-server,postgresql \
      --customize-hook='cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || true; chroot "$1" update-ca-certificates >/dev/null' \
      bookworm "$STATE/base.part.tar" ${mirror:+"$mirror"}
    mv "$STATE/base.part.tar" "$STATE/base.tar"
  }
  local name changes=()
  for name in SSL_CERT_FILE PIP_CERT REQUESTS_CA_BUNDLE NODE_EXTRA_CA_CERTS; do changes+=(--change "ENV $name=$CERTIFICATES"); done
  docker import "${changes[@]}" "$STATE/base.tar" shiori-test/base >/dev/null
  rm -f "$STATE/base.tar"
}

down() {
  [ -f "$STATE/pid" ] || return 0
  kill "$(cat "$STATE/pid")" 2>/dev/null || true
  for _ in $(seq 80); do [ -e "$STATE/pid" ] || break; sleep 0.25; done
  umount "$STATE/exec/netns/default" 2>/dev/null || true
  ip link del docker0 2>/dev/null || true
}

case ${1:-} in
up) up ;;
base) base ;;
down) down ;;
*) sed -n 2,7p "$0"; exit 2 ;;
esac
