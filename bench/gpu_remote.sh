#!/bin/bash
# On the GPU machine: unpack what travelled, then the checks, the rates, the resume. Results and the kernel cache go to $OUT.
# usage: gpu_remote.sh PART...      parts: check rates vault resume million cache
# What travels in .carry (ignored by git): site.zip (flash-linear-attention, zstandard), gpu/wheels/ for Python 3.12,
# redis/ (a server), gpu/cache.tar.gz (compiled kernels of an earlier call), gpu/tree.tar (the sources to run).
set -u
began=$(date +%s)
said() { echo "== $1 after $(( $(date +%s) - began )) s"; }
home=$PWD
mkdir -p /tmp/tree /tmp/site /tmp/cache
tar -xf .carry/gpu/tree.tar -C /tmp/tree
python3 -m zipfile -e .carry/site.zip /tmp/site
for wheel in .carry/gpu/wheels/*.whl; do [ -f "$wheel" ] && python3 -m zipfile -e "$wheel" /tmp/site; done
export PYTHONPATH=/tmp/site:/tmp/tree PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TRITON_CACHE_DIR=/tmp/cache/triton OMP_NUM_THREADS=4 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
redis=$(ls "$home"/.carry/redis/valkey-server*); chmod +x "$redis"; export LD_LIBRARY_PATH=$home/.carry/redis/lib:${LD_LIBRARY_PATH:-}
[ -f .carry/gpu/cache.tar.gz ] && tar -xzf .carry/gpu/cache.tar.gz -C /tmp/cache
cd /tmp/tree
said unpacked
for part in "$@"; do
  case $part in
    check) python3 -m pytest tests/kernels/test_on_gpu.py tests/engine/test_on_gpu.py -q -p no:cacheprovider --durations=6 2>&1 \
             | tee "$OUT/check.txt" | tail -40 ;;
    rates) python3 -m bench.gpu_rates decode batch prefill memory profile --out "$OUT" 2>&1 | grep -v -i warning ;;
    vault) python3 -m bench.vault_client --redis-binary "$redis" --io-threads 8 --values 512 --gigabytes 1 --repeat 2 \
             --out "$OUT/gpu-vault-client.json" ;;
    resume|million) [ "$part" = million ] && far=--million || far=
            python3 -m bench.gpu_resume --redis-binary "$redis" --redis-options "--io-threads 8 --events-per-io-thread 0" $far \
             --out "$OUT/gpu-resume.json" 2>&1 | grep -v -E -i "warning|\[info" ;;
    cache) tar -C /tmp/cache -czf "$OUT/cache.tar.gz" . ;;
    *) echo "unknown part $part"; exit 2 ;;
  esac
  said "$part"
done
nvidia-smi --query-gpu=name,driver_version,memory.used --format=csv,noheader; lscpu | grep -E "Model name|^CPU\(s\)|L3"; free -g | head -2
