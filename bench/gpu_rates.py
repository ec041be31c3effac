"""The 48B shape on one GPU, end to end: decoding, reading, memory; beside the same shape with MLA in every layer.

    python -m bench.gpu_rates decode batch prefill memory profile numerics --out bench/results/h200 [--all-mla]
                              [--deterministic] [--contexts 4096 131072 1048576] [--batch-contexts 131072 …]
                              [--limit 300] [--step 8192] [--commit HASH]

A part for each word, a file for each part; with --all-mla the model has no KDA layer (decode, batch, prefill). Random
weights; what has been read is random latents in the cache, put there, not read, but for ``prefill``. Times are of
engine steps: the host's work and its wait for the device included.

decode    one sequence at several contexts, against (active weights + cache) / the device's copy bandwidth.
batch     as many sequences as fit beside the weights, at most 256: the paper's "maximal batch". ms a token is ms a step
          / sequences. The two models' weights leave the same memory free, to half a gigabyte.
prefill   a reading from nothing; FLOPs of model-spec §5.3 over the seconds, against a matmul measured in the same run.
memory    what the allocator gave for one sequence of a million tokens, in both models. No weights.
profile   the kernels of one decoded token, and of one step of reading.
numerics  one reading by engines that step differently; the deterministic mode's cost.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu_model import RELEASED, STEP, all_mla, decode, engine_of, random_48b, read, some_ids, steps
from bench.h200.measuring import COPY, Record, eager_ms, place
from engine import Engine, EngineConfig, ModelConfig, SamplingParams, Snapshot
from engine.model import KimiLinear
from engine.pools import Pools

CONTEXTS = [4096, 131_072, 1_048_576]
TOKENS = 48  # decoded for a median
KEPT = 6e9  # bytes left to graphs, logits and a step's tensors
MOST = 256  # sequences


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = ModelConfig.from_folder(RELEASED)
    config = all_mla(config) if arguments.all_mla else config
    parts = [part for part in arguments.parts if part != "memory"]
    if "memory" in arguments.parts:
        write(arguments, "memory", memory())
    if not parts:
        return
    began = time.perf_counter()
    model = random_48b(config=config)
    torch.cuda.synchronize()
    print(f"built in {time.perf_counter() - began:.1f} s, {gb()} GB", flush=True)
    for part in parts:
        records = []
        for found in PARTS[part](model, arguments):
            records.append(found)
            write(arguments, part, records)  # what a later case may not live to see
            clear()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "memory"])
    parser.add_argument("--out", type=Path, default=Path("bench/results/h200"))
    parser.add_argument("--all-mla", action="store_true")
    parser.add_argument("--deterministic", action="store_true", help="the mode whose bits depend on no company")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--batch-contexts", type=int, nargs="+", help="those of batch, where they are others")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each reading of prefill")
    parser.add_argument("--step", type=int, default=STEP, help="tokens of one step of reading")
    parser.add_argument("--commit", default="")
    return parser.parse_args()


def write(arguments: argparse.Namespace, part: str, records: list[dict[str, Any]]) -> None:
    result = {"place": place() | {"commit": arguments.commit}, "records": records}
    of = ("-all-mla" if arguments.all_mla else "") + ("-deterministic" if arguments.deterministic else "")
    name = f"model-{part}{of}.json"
    (arguments.out / name).write_text(json.dumps(result, indent=1) + "\n")


def record(op: str, case: str, ms: float, moved: int, flops: int, **more: Any) -> dict[str, Any]:
    found = asdict(Record(op, case, "shiori", ms, moved, flops, 1e3 * moved / COPY, None)) | more
    print(json.dumps(found), flush=True)
    return found


def kind(model: KimiLinear) -> str:
    return "hybrid" if model.config.kda_layers else "all MLA"


def gb(count: int | None = None) -> float:
    return round((torch.cuda.memory_allocated() if count is None else count) / 1e9, 2)


# what must move


def active_bytes(model: KimiLinear, batch: int = 1) -> int:
    """Weights that a step reads: all but the embedding, and of the routed experts those that some row chooses."""
    E, shared = model.config.num_experts, model.config.num_shared_experts
    chosen = E * (1 - (1 - model.config.num_experts_per_token / E) ** batch) + shared  # on average
    total = sum(x.nbytes for x in tensors(model.head))
    for layer in model.layers:
        for x in tensors(layer):
            total += int(x.nbytes * chosen / len(x)) if x.dim() == 3 and len(x) > E else x.nbytes
        total -= layer.mixer.gates.nbytes // 2 if layer.recurrent else 0  # type: ignore[union-attr]  # zeros
    return total


def tensors(part: Any) -> Iterator[torch.Tensor]:
    """Of dataclasses within dataclasses."""
    for value in vars(part).values():
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "__dataclass_fields__"):
            yield from tensors(value)


def cache_bytes(engine: Engine, context: int) -> int:
    """Latents and state of one sequence, each once."""
    pools = engine.pools
    return pools.latents[:, 0, 0].nbytes * context + pools.kda[:, 0].nbytes + pools.conv[:, 0].nbytes


# sequences that stand where nobody has read


def at(engine: Engine, depth: int, random: torch.Tensor) -> int:
    """A sequence at ``depth`` with random latents [Lm,n,R+r], over and over, and an empty recurrent state."""
    sequence = engine.begin_restore(depth)
    for first in range(0, depth, random.shape[1]):
        engine.put_latents(sequence, first, random[:, : depth - first])
    pools = engine.pools
    state = {"kda": torch.zeros_like(pools.kda[:, 0]), "conv": torch.zeros_like(pools.conv[:, 0])}
    engine.finish_restore(sequence, Snapshot(depth, bytes([1] * 32), state))
    return sequence


def some_latents(engine: Engine) -> torch.Tensor:
    layers, _, _, width = engine.pools.latents.shape
    return torch.randn(layers, 8192, width, dtype=engine.model.dtype, device=engine.model.device)


def standing(engine: Engine, count: int, context: int) -> list[int]:
    """So many sequences a little before ``context``, ready to decode up to it."""
    random = some_latents(engine)
    sequences = [at(engine, context - TOKENS - 8, random) for _ in range(count)]
    for i, sequence in enumerate(sequences):
        engine.read(sequence, some_ids(engine, 4, seed=i))
    for _ in steps(engine):
        pass
    return sequences


def step_ms(engine: Engine, sequences: list[int], tokens: int = TOKENS) -> list[float]:
    """ms of each step in which all of them decode; the first captures the graph."""
    for sequence in sequences:
        engine.generate(sequence, SamplingParams(max_tokens=tokens))
    took = [1e3 * seconds for seconds, found in steps(engine) if len(found) == len(sequences)]
    return took[3:-1]  # the last token is not fed


def replay_ms(engine: Engine) -> float:
    """The last graph alone, over and over: what the device takes. Spoils the sequences."""
    decoder = engine._runner._decoder
    assert decoder and decoder.captures, "there is no graph: see the log"
    return eager_ms(list(decoder._graphs.values())[-1].graph.replay)


def free() -> float:
    """Bytes for caches beside the weights: the device's, less those taken, less KEPT."""
    clear()
    return torch.cuda.mem_get_info()[0] - KEPT


def clear() -> None:
    gc.collect()
    torch.cuda.empty_cache()


# the parts


def decoding(model: KimiLinear, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    weights = active_bytes(model)
    for context in arguments.contexts:
        engine = engine_of(model, context + STEP, slots=2, deterministic=arguments.deterministic)
        ms = step_ms(engine, standing(engine, 1, context))
        moved = weights + cache_bytes(engine, context)
        found = statistics.median(ms)
        more = {"replay_ms": replay_ms(engine), "weights_gb": gb(weights), "cache_gb": gb(moved - weights)}
        more |= {"of_floor": found / (1e3 * moved / COPY), "each": [round(x, 3) for x in ms]}
        del engine
        yield record("decode", f"{kind(model)}, batch 1, {context} tokens", found, moved, 0, **more)


def batches(model: KimiLinear, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Batch 2, 16, … and the largest that fits, at each context."""
    budget = free()
    for context in arguments.batch_contexts or arguments.contexts:
        largest = fitting(model, context, budget)
        for batch in sorted({b for b in (2, 16, 64) if b < largest} | {largest}):
            yield one_batch(model, context, batch, batch == largest, budget, arguments.deterministic)


def fitting(model: KimiLinear, context: int, budget: float) -> int:
    """A sequence's latents in whole pages, its state, and fp32 logits three times."""
    config = model.config
    latents = len(config.mla_layers) * config.latent_width * 2 * (context + 512)
    state = len(config.kda_layers) * config.kda_width * (config.kda_head_dim * 4 + (config.conv_width - 1) * 6)
    return max(1, min(MOST, int(budget // (latents + state + 12 * config.vocab_size))))


def one_batch(
    model: KimiLinear, context: int, batch: int, largest: bool, budget: float, deterministic: bool
) -> dict[str, Any]:
    engine = engine_of(model, batch * (context + 512), slots=batch, deterministic=deterministic)
    ms = statistics.median(step_ms(engine, standing(engine, batch, context)))
    moved = active_bytes(model, batch) + batch * cache_bytes(engine, context)
    more = {"batch": batch, "largest": largest, "ms_a_token": ms / batch, "replay_ms": replay_ms(engine)}
    more |= {"cache_gb": gb(batch * cache_bytes(engine, context)), "budget_gb": gb(int(budget)), "allocated_gb": gb()}
    return record("decode batch", f"{kind(model)}, batch {batch}, {context} tokens", ms, moved, 0, **more)


def prefill(model: KimiLinear, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rate = matmul_rate()
    for context in arguments.contexts:
        room, step = context + 2 * arguments.step, arguments.step
        engine = engine_of(model, room, slots=2, step=step, deterministic=arguments.deterministic)
        warm(engine, arguments.step)
        torch.cuda.reset_peak_memory_stats()
        tokens, seconds = whole(engine, context - 256, arguments.limit)
        work = prefill_flops(model.config, tokens)
        more = {"tokens": tokens, "complete": tokens == context - 256, "tokens_a_second": tokens / sum(seconds)}
        more |= {"matmul_tflops": rate / 1e12, "mfu": work / sum(seconds) / rate, "step": arguments.step}
        more |= {"peak_gb": gb(torch.cuda.max_memory_allocated()), "step_s": [round(s, 4) for s in seconds]}
        del engine
        yield record("prefill", f"{kind(model)}, {context} tokens", 1e3 * sum(seconds), 0, work, **more)


def warm(engine: Engine, step: int) -> None:
    sequence = engine.open()
    read(engine, sequence, some_ids(engine, 3 * step))  # more than one round of expanded keys
    engine.close(sequence)


def whole(engine: Engine, tokens: int, limit: float) -> tuple[int, list[float]]:
    """A reading from nothing, until it ends or the seconds do -> tokens read, seconds of each step."""
    sequence, ids, seconds = engine.open(), some_ids(engine, tokens), list[float]()
    request = engine.read(sequence, ids)
    for took, _ in steps(engine):
        seconds.append(took)
        if sum(seconds) > limit:
            engine.abort(request)
    return engine.position(sequence), seconds


def prefill_flops(config: ModelConfig, tokens: int) -> int:
    """model-spec §5.3: linears, KDA in dense tiles, and expanded softmax attention, causal."""
    C, K, D, h = config.kda_width, config.kda_head_dim, config.hidden_size, config.mla_heads
    q, width = h * (config.qk_nope_head_dim + config.qk_rope_head_dim), config.latent_width
    kda = D * (3 * C + 2 * K + config.kda_heads) + 2 * K * C + C * D
    expand = config.kv_lora_rank * h * (config.qk_nope_head_dim + config.v_head_dim)
    mla = D * (q + width) + expand + h * config.v_head_dim * D
    chosen = config.num_experts_per_token + config.num_shared_experts
    moe = D * config.num_experts + 3 * D * config.moe_intermediate_size * chosen
    dense, sparse = config.first_k_dense_replace, config.num_layers - config.first_k_dense_replace
    linears = len(config.kda_layers) * kda + len(config.mla_layers) * mla
    linears += dense * 3 * D * config.intermediate_size + sparse * moe
    mixing = len(config.kda_layers) * config.kda_heads * (6 * K * K + 10 * 64 * K)
    attention = len(config.mla_layers) * (q + h * config.v_head_dim)  # of a row and a key, multiply-adds
    return tokens * (2 * linears + mixing) + attention * tokens * tokens


def matmul_rate() -> float:
    """FLOP/s of 8192 x 8192 x 8192 in bf16."""
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * 8192**3 / (1e-3 * eager_ms(lambda: a @ b))


def memory() -> list[dict[str, Any]]:
    """One sequence of a million tokens: the pools as the engine makes them, by the allocator's own count."""
    config, found = ModelConfig.from_folder(RELEASED), {}
    for name, shape in (("hybrid", config), ("all MLA", all_mla(config))):
        before = torch.cuda.memory_allocated()
        pools = Pools(shape, EngineConfig(1, 1_048_576), torch.device("cuda"), torch.bfloat16, torch.bfloat16)
        found[name] = torch.cuda.memory_allocated() - before
        del pools
        clear()
    saved = 1 - found["hybrid"] / found["all MLA"]
    return [{"op": "memory", "case": "1048576 tokens, one sequence", "bytes": found, "saved": saved}]


def profiles(model: KimiLinear, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Tables of kernels as text; the records: microseconds of a decoded token or a step by kernel."""
    for context in arguments.contexts:
        engine = engine_of(model, context + 2 * STEP, slots=2)
        (sequence,) = standing(engine, 1, context)
        step_ms(engine, [sequence], 8)
        yield profiled(arguments.out, f"decode-{context}", 8, lambda s=sequence, e=engine: decode(e, s, 9))
        ids = some_ids(engine, STEP)
        engine.close(sequence)
        (sequence,) = standing(engine, 1, max(context - STEP, 512))
        yield profiled(arguments.out, f"read-{context}", 1, lambda s=sequence, e=engine, i=ids: read(e, s, i))
        del engine


def profiled(folder: Path, name: str, times: int, run: Callable[[], Any]) -> dict[str, Any]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    averages = seen.key_averages()
    for by in ("cuda", "cpu"):
        table = averages.table(sort_by=f"self_{by}_time_total", row_limit=45, max_name_column_width=60)
        (folder / f"profile-{name}-{by}.txt").write_text(table)
    kernels = [e for e in averages if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda e: -e.self_device_time_total)
    lines = {e.key[:70]: [round(e.self_device_time_total / times, 2), round(e.count / times, 2)] for e in kernels}
    total, launches = (sum(line[i] for line in lines.values()) for i in range(2))
    print(name, f"{total / 1e3:.3f} ms of kernels, {launches:.0f} launches", flush=True)
    for key, (took, count) in list(lines.items())[:24]:
        print(f"  {took:10.1f} us {count:7.1f} x {key}", flush=True)
    return {"op": "profile", "case": name, "us": total, "kernels_us_count": lines}


def numerics(model: KimiLinear, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One reading of 2,500 tokens by engines that step differently, against whole steps; and what a step costs each.

    A random router has near ties everywhere: a rounding sends a token to another expert and all that follows differs.
    So the same is done with biases that choose the same experts for every token: what is left is rounding.
    """
    engine = engine_of(model, 32_768)
    found: dict[str, Any] = {"routing free": modes(engine), "resumed": resumed(engine)}
    with fixed_routing(model):
        found["routing fixed"] = modes(engine)
    return [{"op": "numerics", "case": "2500 tokens", **found}]


def modes(engine: Engine) -> dict[str, Any]:
    model, first = engine.model, reading(engine)
    others = {
        "the same again": engine,
        "steps of 1024": engine_of(model, 32_768, step=1024),
        "deterministic": engine_of(model, 32_768, deterministic=True),
        "deterministic, steps of 1024": engine_of(model, 32_768, step=1024, deterministic=True),
    }
    ends = {name: reading(other) for name, other in others.items()}
    cut = difference(ends["deterministic"], ends["deterministic, steps of 1024"])
    return {name: difference(first, end) for name, end in ends.items()} | {"deterministic, cut elsewhere": cut}


@contextmanager
def fixed_routing(model: KimiLinear) -> Iterator[None]:
    biases = [layer.ffn.bias for layer in model.layers if hasattr(layer.ffn, "bias")]  # type: ignore[union-attr]
    before = [bias.clone() for bias in biases]
    for bias in biases:
        bias.normal_(0, 10)
    yield
    for bias, old in zip(biases, before, strict=True):
        bias.copy_(old)


def reading(engine: Engine) -> dict[str, Any]:
    sequence = engine.open()
    end: dict[str, Any] = {"read_s": sum(read(engine, sequence, some_ids(engine, 2500)))}
    end |= {"kda": engine.snapshot(sequence).tensors["kda"], "latents": engine.latents(sequence, 0, 2500)}
    end["logits"] = engine._sequences[sequence].logits.cpu()  # type: ignore[union-attr]
    end["greedy"], each = decode(engine, sequence, 16)
    end["decode_ms"] = 1e3 * statistics.median(each[3:])
    engine.close(sequence)
    return end


def difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Relative Frobenius differences, and how many greedy tokens agree from the start."""
    found: dict[str, Any] = {
        name: float(f"{float((a[name].float() - b[name].float()).norm() / a[name].float().norm()):.2e}")
        for name in ("kda", "latents", "logits")
    }
    same = [x == y for x, y in zip(a["greedy"], b["greedy"], strict=True)]
    gap = a["logits"].topk(2).values
    found |= {"read_s": round(b["read_s"], 3), "decode_ms": round(b["decode_ms"], 3)}
    return found | {"greedy_equal": [*same, False].index(False), "top_two_gap": round(float(gap[0] - gap[1]), 4)}


def resumed(engine: Engine) -> dict[str, bool]:
    """10,000 tokens, then a question: unbroken, and from a copy that went through the host's memory."""
    unbroken = engine.open()
    read(engine, unbroken, some_ids(engine, 10_000))
    restored = engine.restore(engine.snapshot(unbroken), engine.latents(unbroken, 0, 10_000))
    ends = []
    for sequence in (unbroken, restored):
        read(engine, sequence, some_ids(engine, 32, seed=1))
        logits, state = engine._sequences[sequence].logits, engine.snapshot(sequence).tensors
        ends.append((logits, state["kda"], state["conv"], decode(engine, sequence, 32)[0]))
        engine.close(sequence)
    same = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(*ends, strict=True)]
    return dict(zip(("logits", "kda", "conv", "greedy_32"), same, strict=True))


PARTS = {"decode": decoding, "batch": batches, "prefill": prefill, "profile": profiles, "numerics": numerics}

if __name__ == "__main__":
    main()
