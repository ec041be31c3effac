#!/usr/bin/env bash
# Writes constraints.txt from the virtual environment: exact versions, no paths, no torch.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$ROOT"
frozen=$("$VENV/bin/python" -m pip freeze --exclude-editable | grep -viE '^(#|-e|torch|triton|nvidia|cuda|shiori|nodejs|(uv|pip|setuptools)==)')
{
  echo "# Exact versions of everything but torch, whose build (CPU or CUDA) scripts/setup.sh chooses first."
  echo "# Made by: make constraints   (from a virtual environment that passes make check and make test)"
  grep -v ' @ ' <<<"$frozen"
} >constraints.txt
