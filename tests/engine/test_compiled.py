"""A model in the compiled kernels: what the same model is in PyTorch's operations, with bits that depend on nothing."""

import pytest
import torch

from engine import ModelConfig, SamplingParams, Token
from engine.compiled import best_dtype
from engine.testing import TINY, tiny_model
from kernels.cpu import build, library
from kernels.cpu.ops import set_threads
from tests.engine.driving import decode, engine_of, read, run, some_ids, state

FIELDS = {"kv_lora_rank": 32, "qk_rope_head_dim": 16}
DEEP = FIELDS | {
    "num_hidden_layers": 6,
    "linear_attn_config": {
        "num_heads": 3,
        "head_dim": 32,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 4, 6],
        "full_attn_layers": [3, 5],
    },
}


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=["fp32", "bf16", "int8"])


def whole(model, lengths=(37, 200, 1, 64), decoded=5):
    engine = engine_of(model)
    sequence = engine.open()
    for i, length in enumerate(lengths):
        read(engine, sequence, some_ids(length, seed=i))
    tokens = decode(engine, sequence, max_tokens=decoded)
    return state(engine, sequence), tokens


def test_it_is_the_same_model():
    (found, tokens), (expected, same) = whole(tiny_model(0, DEEP)), whole(tiny_model(0, DEEP, compiled_kernels=False))
    assert tokens == same
    for name, x in found.items():
        assert torch.allclose(x, expected[name], atol=2e-4, rtol=2e-4), name


def test_in_bf16_it_is_the_same_model_but_for_rounding():
    """Near the fp32 model, and as far from it as PyTorch's operations in bf16 are, or nearer."""
    exact = whole(tiny_model(0, DEEP))[0]
    ours, plain = (
        whole(tiny_model(0, DEEP, compiled_kernels=compiled, dtype=torch.bfloat16))[0] for compiled in (True, False)
    )

    def far(found):
        return {name: ((x.float() - exact[name]).norm() / exact[name].norm()).item() for name, x in found.items()}

    ours, plain = far(ours), far(plain)
    assert all(0 < ours[name] < max(0.02, 1.2 * plain[name]) for name in ours), (ours, plain)


def test_in_int8_it_is_the_bf16_model_but_for_the_matrices():
    exact, found = (whole(tiny_model(0, DEEP, dtype=dtype), decoded=1)[0] for dtype in (torch.bfloat16, torch.int8))
    assert all(x.dtype == exact[name].dtype for name, x in found.items())
    far = {
        name: ((x.float() - exact[name].float()).norm() / exact[name].float().norm()).item()
        for name, x in found.items()
    }
    assert all(0 < x < 0.25 for x in far.values()), far


@pytest.mark.parametrize("missing", ["widths", "library", "kernels"])
def test_int8_is_refused_where_the_kernels_do_not_run(monkeypatch, missing):
    if missing == "library":
        monkeypatch.setattr(library, "library", lambda: None)
    fields = {"kv_lora_rank": 24} if missing == "widths" else FIELDS
    with pytest.raises(ValueError, match="int8 needs the compiled CPU kernels"):
        tiny_model(0, fields, compiled_kernels=missing != "kernels", dtype=torch.int8)


def test_in_bf16_what_is_stored_of_a_token_is_half_as_much():
    exact, rounded = (engine_of(tiny_model(0, FIELDS, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert rounded.describe().page_bytes * 2 == exact.describe().page_bytes
    assert rounded.pools.kda.dtype == rounded.pools.conv.dtype == torch.float32


@DTYPES
def test_every_library_and_any_number_of_threads_give_the_same_bits(monkeypatch, dtype):
    """Where rows are rounded: every library that sums in the same order."""
    found = {}
    for name in library.suitable():
        opened = library.open_library(build.path_of(name))
        monkeypatch.setattr(library, "library", lambda opened=opened: opened)
        for threads in (1, 2, 3):
            model = tiny_model(0, DEEP, dtype=dtype)
            set_threads(threads)
            order = engine_of(model).describe().contract.get("products")
            found.setdefault(order, []).append(whole(model)[0])
    assert sum(map(len, found.values())) == 3 * len(library.suitable())
    assert len(found) <= (1 if dtype == torch.float32 else 2)
    for first, *others in found.values():
        assert all(torch.equal(first[name], other[name]) for other in others for name in other)


def test_its_contract_names_neither_processor_nor_threads():
    contract = engine_of(tiny_model(0, FIELDS)).describe().contract
    assert contract.keys() == {"dtype", "grid", "kernels"}
    assert contract["kernels"] != engine_of(tiny_model()).describe().contract["kernels"]


@pytest.mark.parametrize("name", ["bfloat16", "int8"])
def test_where_rows_are_rounded_its_contract_names_the_order_of_sums(name):
    contract = engine_of(tiny_model(0, FIELDS, dtype=getattr(torch, name))).describe().contract
    assert contract.keys() == {"dtype", "grid", "kernels", "products"} and contract["dtype"] == name


@pytest.mark.parametrize("vendor", ["GenuineIntel", "AuthenticAMD"])
@pytest.mark.parametrize("variant", ["amx", "avx512_bf16", "avx512", None])
def test_bf16_is_chosen_where_it_is_faster(monkeypatch, variant, vendor):
    monkeypatch.setattr(library, "variant", lambda: variant)
    monkeypatch.setattr(library, "_line", lambda name: vendor)
    faster = variant == "amx" or (variant == "avx512_bf16" and vendor == "AuthenticAMD")
    suited, unsuited = (ModelConfig.from_dict(TINY | fields) for fields in (FIELDS, {}))
    assert best_dtype(suited) == (torch.bfloat16 if faster else torch.float32)
    assert best_dtype(unsuited) == torch.float32


@pytest.mark.parametrize("missing", ["widths", "library"])
def test_without_the_kernels_the_model_runs_in_pytorch(monkeypatch, missing):
    if missing == "library":
        monkeypatch.setattr(library, "library", lambda: None)
    model = tiny_model(0, FIELDS if missing == "library" else {"kv_lora_rank": 24})
    assert not model.compiled
    assert whole(model)[1]


@DTYPES
def test_those_who_decode_share_a_forward_and_each_says_what_it_says_alone(monkeypatch, dtype):
    model = tiny_model(0, FIELDS, dtype=dtype)
    engine = engine_of(model)
    sequences = [engine.open() for _ in range(3)]
    for i, sequence in enumerate(sequences):
        read(engine, sequence, some_ids(30 + 40 * i, seed=i))
    alone = [decode(engine, engine.fork(sequence), max_tokens=8) for sequence in sequences]
    rows = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda s, batch, pools: rows.append(len(batch.ids)) or forward(s, batch, pools)
    )
    requests = [engine.generate(sequence, SamplingParams(max_tokens=8)) for sequence in sequences]
    events = [event for event in run(engine) if isinstance(event, Token)]
    assert [[event.id for event in events if event.request == request] for request in requests] == alone
    assert rows == [3] * 7  # the eighth token is not fed
