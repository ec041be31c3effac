#!/usr/bin/env bash
# Twenty prompts to lab/model in our engine, in transformers and in llama.cpp: the same greedy tokens? A minute or two.
#    parity.sh SOURCE BUILD [OUT]    SOURCE: llama-cpp-python's sources, unpacked; BUILD: where cmake built its llama.cpp
# docs/llama-cpp.md says how to get both. OUT: a JSON file for what is found. SHIORI_VENV: another environment than .venv
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
[ $# -ge 2 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
source=$(realpath "$1") build=$(realpath "$2") out=${3:+$(realpath -m "$3")}
cd "$ROOT"
export PYTHONPATH=$ROOT

"$VENV/bin/pytest" tests/lab/test_released.py

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "lab/model to a GGUF file of 32-bit floats"
"$VENV/bin/python" bench/llama_cpp_convert.py "$source/vendor/llama.cpp" lab/model "$work/shiori.gguf" --outtype f32 \
  >"$work/log" 2>&1 || { cat "$work/log"; fail "llama.cpp's converter did not take lab/model"; }
"$VENV/bin/python" -m pip install --quiet --target "$work/site" diskcache jinja2  # what llama_cpp's Python side imports
LLAMA_CPP_LIB_PATH=$build/bin PYTHONPATH=$ROOT:$source:$work/site \
  "$VENV/bin/python" -m bench.llama_parity "$work/shiori.gguf" ${out:+--out "$out"} 2>"$work/log" ||
  { grep -v llama_graph_n_input "$work/log" | tail -5; fail "llama.cpp and the engine differ, or did not run (above)"; }
