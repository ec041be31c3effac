"""llama.cpp's own saving and restoring of a sequence, on the same checkpoint: what bench.resume stands beside.

    python bench/llama_restore.py MODEL.gguf [--tokens 32768] [--threads 2] [--out bench/results/llama-restore.json]

Needs the llama-cpp-python package (or its `llama_cpp` folder on PYTHONPATH and LLAMA_CPP_LIB_PATH naming the built
libraries); MODEL.gguf from bench/llama_cpp_convert.py. Reads random tokens, saves the sequence to a file, restores it
into a fresh context, reads a question of 32 tokens and takes the first token.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.where import where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench/results/llama-restore.json"))
    arguments = parser.parse_args()
    import llama_cpp as ll

    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(str(arguments.model).encode(), ll.llama_model_default_params())
    ids = random.Random(0).choices(range(16, 16000), k=arguments.tokens)
    with tempfile.TemporaryDirectory() as folder:
        result = restored(ll, model, ids, Path(folder, "slot").as_posix().encode(), arguments.threads)
    print(json.dumps(result, indent=1))
    arguments.out.write_text(json.dumps(result | where(), indent=1) + "\n")


def context(ll: Any, model: Any, tokens: int, threads: int) -> Any:
    params = ll.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens + 512, 512, 512, 1
    params.n_threads = params.n_threads_batch = threads
    return ll.llama_init_from_model(model, params)


def read(ll: Any, ctx: Any, ids: list[int]) -> None:
    for start in range(0, len(ids), 512):
        piece = ids[start : start + 512]
        array = (ll.llama_token * len(piece))(*piece)
        assert ll.llama_decode(ctx, ll.llama_batch_get_one(array, len(piece))) == 0
        if start % 8192 == 0:
            print(start, flush=True)


def restored(ll: Any, model: Any, ids: list[int], file: bytes, threads: int) -> dict[str, Any]:
    ctx = context(ll, model, len(ids), threads)
    begun = time.monotonic()
    read(ll, ctx, ids)
    reading = time.monotonic() - begun
    array = (ll.llama_token * len(ids))(*ids)
    begun = time.monotonic()
    size = ll.llama_state_seq_save_file(ctx, file, 0, array, len(ids))
    saving = time.monotonic() - begun
    ll.llama_free(ctx)
    times = [once(ll, model, ids, file, threads) for _ in range(5)]
    return {
        "tokens": len(ids),
        "read_s": round(reading, 2),
        "save_ms": round(saving * 1000, 1),
        "file_bytes": size,
        "restore_ms": sorted(round(t[0] * 1000, 1) for t in times),
        "restore_to_first_token_ms": sorted(round(t[1] * 1000, 1) for t in times),
    }


def once(ll: Any, model: Any, ids: list[int], file: bytes, threads: int) -> tuple[float, float]:
    ctx = context(ll, model, len(ids), threads)
    room, count = (ll.llama_token * len(ids))(), (ll.ctypes.c_size_t)(0)
    begun = time.monotonic()
    assert ll.llama_state_seq_load_file(ctx, file, 0, room, len(ids), ll.ctypes.byref(count)) > 0
    loaded = time.monotonic() - begun
    read(ll, ctx, random.Random(1).choices(range(16, 16000), k=32))
    ll.llama_get_logits_ith(ctx, -1)
    first = time.monotonic() - begun
    ll.llama_free(ctx)
    return loaded, first


if __name__ == "__main__":
    main()
