#!/bin/bash
# On the GPU machine: unpack what travelled, encode this call's part of the corpus, train by the clock, bring the model back.
# usage: remote.sh SECONDS START STOP [corpus file...]
set -u
began=$(date +%s)
seconds=$1 start=$2 stop=$3; shift 3
data=/tmp/data; mkdir -p $data/run
mkdir -p /tmp/pack/corpus; mv .carry/pack?/corpus/* /tmp/pack/corpus/ 2>/dev/null
export PYTHONPATH=/tmp/site:$PWD PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 SHIORI_PACK=/tmp/pack
export TRITON_CACHE_DIR=/tmp/cache/triton TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor TRITON_CACHE_AUTOTUNING=1 OMP_NUM_THREADS=2
[ -d /tmp/site ] || python3 -m zipfile -e .carry/site.zip /tmp/site
for t in tables tables_small; do [ -f .carry/$t.tar.zst ] && [ ! -d $data/tables ] && python3 -m lab.unpack .carry/$t.tar.zst $data/tables; done
[ -f /tmp/cache/done ] || [ ! -f .carry/cache.tar.zst ] || { python3 -m lab.unpack .carry/cache.tar.zst /tmp/cache; touch /tmp/cache/done; }
[ -f .carry/weights.zst ] && python3 -c "import zstandard; zstandard.ZstdDecompressor().copy_stream(open('.carry/weights.zst','rb'), open('/tmp/data/weights.safetensors','wb'))" && TRAIN="${TRAIN:-} --weights /tmp/data/weights.safetensors"
gpus=$(nvidia-smi -L | wc -l)
echo "gpus $gpus cores $(nproc) unpacked after $(( $(date +%s) - began )) s"
for f in "$@"; do [ -f $data/corpus/$f.tokens.npy ] && continue; python3 -m lab.corpus $data/corpus $f && echo "$f encoded after $(( $(date +%s) - began )) s"; done &
if [ -n "${CHECK:-}" ]; then python3 -m lab.check_gpu; fi
left=$(( seconds - ( $(date +%s) - began ) ))
python3 -m torch.distributed.run --nproc_per_node=$gpus -m lab.train --seconds $left --plan-from $start --plan-to $stop \
  --tables $data/tables --corpus $data/corpus --out $data/run ${TRAIN:-} 2>&1 | grep --line-buffered -v -i warning
cp $data/run/curve.jsonl $OUT/
if [ -n "${CACHE:-}" ]; then tar -C /tmp/cache -cf - . | python3 -m lab.unpack --pack $OUT/cache.tar.zst; ls -la $OUT; else python3 -m lab.export split $data/run/model/model.safetensors $OUT; fi
echo "returned after $(( $(date +%s) - began )) s"
