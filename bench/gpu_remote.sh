#!/bin/bash
# On the GPU machine: unpack what travelled, then run parts one after another. Results and the kernel cache go to $OUT.
# usage: gpu_remote.sh PART...   a part, with an optional limit in seconds behind "@":
#   tests[:FILE-WORD…]   tests/kernels/gpu, and the engine's on a GPU; of these, files whose name holds a word
#   bench:OP…            bench/h200 beside the rivals                            tune:OP  configurations of an operation
#   rates:PART…          bench/gpu_rates.py                                      resume, million, vault   state in and out
#   run:FILE             a script in .carry/gpu                                  cache   compiled kernels to bring back
#   warm:OP…             a benchmark beside the tests that follow, so that its rivals are compiled and tuned
#   also:FILE            a shell script beside the tests that follow
# What travels in .carry (ignored by git): site.zip (flash-linear-attention), gpu/wheels/ for Python 3.12, redis/ (a
# server), gpu/cache.tar.gz (compiled kernels of an earlier call), gpu/tree.tar (the sources to run), gpu/model.tar.gz.
set -u
began=$(date +%s)
said() { echo "== $1 after $(( $(date +%s) - began )) s"; }
home=$PWD
mkdir -p /tmp/tree /tmp/site /tmp/cache
rm -rf /tmp/tree/* && tar -xf .carry/gpu/tree.tar -C /tmp/tree
[ -f .carry/gpu/model.tar.gz ] && tar -xzf .carry/gpu/model.tar.gz -C /tmp/tree
python3 -m zipfile -e .carry/site.zip /tmp/site
for wheel in .carry/gpu/wheels/*.whl; do [ -f "$wheel" ] && python3 -m zipfile -e "$wheel" /tmp/site; done
export PYTHONPATH=/tmp/site:/tmp/tree PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TRITON_CACHE_AUTOTUNING=1 TRITON_CACHE_DIR=/tmp/cache/triton OMP_NUM_THREADS=4 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
[ -f .carry/gpu/cache.tar.gz ] && [ ! -d /tmp/cache/triton ] && tar -xzf .carry/gpu/cache.tar.gz -C /tmp/cache
redis=$(ls "$home"/.carry/redis/*-server 2>/dev/null | head -1)
commit=$(cat .carry/gpu/commit) testing=
cd /tmp/tree
said unpacked
for part in "$@"; do
  limit=580; case $part in *@*) limit=${part##*@}; part=${part%@*} ;; esac
  what=${part#*:}; [ "$what" = "$part" ] && what=
  case ${part%%:*} in
    tests) # a process for each file: most of the time goes into compiling
           for file in $(for w in ${what:-.}; do ls tests/*/*on_gpu.py tests/kernels/gpu/*.py | grep "/test_.*$w"; done | sort -u); do
             timeout "$limit" python3 -m pytest "$file" --confcutdir=tests/kernels -q --maxfail=12 -p no:cacheprovider --durations=4 \
               >"$OUT/$(basename "$file" .py)-$(basename "$(dirname "$file")").txt" 2>&1 &
             testing="$testing $!"
           done; wait $testing; testing=
           tail -n 25 "$OUT"/test_*.txt | cut -c1-400 ;;
    warm) timeout "$limit" python3 -m bench.h200 --only $what --out /tmp/warm >/dev/null 2>&1 & ;;
    also) bash "$home/.carry/gpu/$what" >"$OUT/${what%.sh}.txt" 2>&1 & ;;
    join) wait ;;
    bench) timeout "$limit" python3 -m bench.h200 --only $what --commit "$commit" --out "$OUT/bench" 2>&1 | grep -v -i warning | cut -c1-330 ;;
    tune) timeout "$limit" python3 -m "bench.h200.${what}_tune" --out "$OUT/tune-$what.json" 2>&1 | grep -v -i warning ;;
    rates) timeout "$limit" python3 -m bench.gpu_rates $what --out "$OUT/rates" 2>&1 | grep -v -i warning ;;
    run) timeout "$limit" python3 "$home/.carry/gpu/$what" 2>&1 | tee "$OUT/${what%.py}.txt" ;;
    vault) python3 -m bench.vault_client --redis-binary "$redis" --io-threads 8 --values 512 --gigabytes 1 --repeat 2 \
             --out "$OUT/gpu-vault-client.json" ;;
    resume|million) [ "$part" = million ] && far=--million || far=
            timeout "$limit" python3 -m bench.gpu_resume --redis-binary "$redis" --redis-options "--io-threads 8 --events-per-io-thread 0" \
             $far --out "$OUT/gpu-resume.json" 2>&1 | grep -v -E -i "warning|\[info" ;;
    cache) tar -C /tmp/cache -czf "$OUT/cache.tar.gz" . ;;
    *) echo "unknown part $part"; exit 2 ;;
  esac
  said "$part"
done
cd "$OUT" && tar --exclude cache.tar.gz --exclude results.tar.gz -czf results.tar.gz ./*  # no more than 8 files come back
find . -mindepth 1 -maxdepth 1 ! -name '*.tar.gz' -exec rm -r {} +
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
