#!/usr/bin/env bash
# services/inference/pb from proto/inference.proto. The result is committed.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$ROOT"
out=services/inference/pb
mkdir -p "$out"
"$VENV/bin/python" -m grpc_tools.protoc -I proto --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" proto/inference.proto
sed -i 's/^import inference_pb2 as/from services.inference.pb import inference_pb2 as/' "$out/inference_pb2_grpc.py"
[ -f "$out/__init__.py" ] || : >"$out/__init__.py"
