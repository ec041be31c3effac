#!/usr/bin/env bash
# The tests that need a GPU, and those of the kernels at their full sizes.    test_gpu.sh PYTHON [pytest's arguments]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$ROOT"
[ $# -ge 1 ] || { sed -n 2p "$0" >&2; exit 2; }
python=$1; shift
"$python" - <<'PYTHON' || fail "no GPU that these tests run on (above). On a CPU the same kernels run in Triton's interpreter: make test"
import sys
try:
    import torch
    from engine.device import DeviceError, usable
except ImportError as error:
    sys.exit(f"{sys.executable}: {error}")
try:
    usable("cuda")
except DeviceError as error:
    sys.exit(str(error))
major, minor = torch.cuda.get_device_capability()
print(f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}, torch {torch.__version__}")
PYTHON
exec "$python" -m pytest tests/kernels/gpu tests/kernels/test_on_gpu.py tests/engine/test_on_gpu.py tests/lab/test_small_on_gpu.py \
  tests/engine/test_loading.py tests/engine/test_memory.py "$@"
