#!/bin/bash
# On the GPU machine: unpack what travelled in $CARRY, train by the clock, bring back weights, state, log and kernels' cache.
# usage: remote.sh SECONDS PLAN_TO [option of lab.train...]   (SECONDS 0: only unpack)
# Everything stays in $DATA while the machine is held: a next call goes on from the checkpoint there.
# Rehearsal on CPUs: DATA=/tmp/x OUT=/tmp/y GPUS=2 lab/remote.sh 30 0.1 --eager --tokens 256 --config tiny.json
set -u
began=$(date +%s); spent() { echo $(( $(date +%s) - began )); }
seconds=$1 plan=$2; shift 2
data=${DATA:-/tmp/data} carry=${CARRY:-.carry/next}
mkdir -p $data/run $data/held $OUT
export PYTHONPATH=$data/site:$PWD PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export TRITON_CACHE_DIR=$data/cache/triton TORCHINDUCTOR_CACHE_DIR=$data/cache/inductor TRITON_CACHE_AUTOTUNING=1
[ -f $carry/site.zip ] && python3 -m zipfile -e $carry/site.zip $data/site
fetch() { [ ! -f $carry/$1 ] || python3 -m lab.unpack $carry/$1 $2; }
fetch tables.tar.xz $data/tables & fetch valid.tar.xz $data/held/tables & fetch cache.tar.zst $data/cache & fetch weights.tar.zst $data/begin &
[ -f $carry/held.xz ] && python3 -m lab.parcel unpack $data/held/corpus $carry/held.xz &
parcels=$(ls $carry/[0-9].xz 2>/dev/null); [ -n "$parcels" ] && python3 -m lab.parcel unpack $data/corpus $parcels &
wait
gpus=${GPUS:-$(nvidia-smi -L | wc -l)}
echo "gpus $gpus cores $(nproc) unpacked after $(spent) s: $(ls $data/corpus | grep -c tokens) corpus files"
[ "$seconds" = 0 ] && exit 0
[ -f $data/begin/weights.safetensors ] && set -- --weights $data/begin/weights.safetensors "$@"
left=$(( seconds - $(spent) ))
timeout -k 5 $(( left + 30 )) python3 -m torch.distributed.run --nproc_per_node=$gpus -m lab.train --seconds $left --plan-to $plan \
  --data $data --out $data/run --probe "$@" 2>&1 | grep --line-buffered -v -i -E "warning|warn\(" | tee $data/run/output.txt
tar -C $data/run -cf $OUT/logs.tar output.txt curve.jsonl state.json $(cd $data/run; ls probe-*.json profile.txt 2>/dev/null)
tar -C $data/run -cf - weights.safetensors state.json | python3 -m lab.unpack --pack $data/run/weights.tar.zst
python3 -m lab.export split $data/run/weights.tar.zst $OUT  # python -m lab.export join FOLDER weights.tar.zst
if [ -n "${CACHE:-}" ]; then
  (cd $data/cache; find . -name '*.json' -o -name '*.cubin' -o -path './inductor/*' -type f | tar -cf - -T -) | python3 -m lab.unpack --pack $OUT/cache.tar.zst
  [ $(stat -c %s $OUT/cache.tar.zst) -lt 13000000 ] || \
    (cd $data/cache; find triton -name '*.json' -o -name '*.cubin' | tar -cf - -T -) | python3 -m lab.unpack --pack $OUT/cache.tar.zst
fi
ls -la $OUT; echo "returned after $(spent) s"
