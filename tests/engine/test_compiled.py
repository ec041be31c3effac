"""A model in the compiled kernels: what the same model is in PyTorch's operations, with bits that depend on nothing."""

import pytest
import torch

from engine import SamplingParams, Token
from engine.testing import tiny_model
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


def whole(model, lengths=(37, 200, 1, 64)):
    engine = engine_of(model)
    sequence = engine.open()
    for i, length in enumerate(lengths):
        read(engine, sequence, some_ids(length, seed=i))
    tokens = decode(engine, sequence, max_tokens=5)
    return state(engine, sequence), tokens


def test_it_is_the_same_model():
    (found, tokens), (expected, same) = whole(tiny_model(0, DEEP)), whole(tiny_model(0, DEEP, compiled_kernels=False))
    assert tokens == same
    for name, x in found.items():
        assert torch.allclose(x, expected[name], atol=2e-4, rtol=2e-4), name


def test_every_library_and_any_number_of_threads_give_the_same_bits(monkeypatch):
    found = []
    for name in library.suitable():
        opened = library.open_library(build.path_of(name))
        monkeypatch.setattr(library, "library", lambda opened=opened: opened)
        for threads in (1, 2, 3):
            model = tiny_model(0, DEEP)
            set_threads(threads)
            found.append(whole(model)[0])
    assert len(found) == 3 * len(library.suitable())
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_its_contract_names_neither_processor_nor_threads():
    contract = engine_of(tiny_model(0, FIELDS)).describe().contract
    assert contract.keys() == {"dtype", "grid", "kernels"}
    assert contract["kernels"] != engine_of(tiny_model()).describe().contract["kernels"]


@pytest.mark.parametrize("missing", ["widths", "library"])
def test_without_the_kernels_the_model_runs_in_pytorch(monkeypatch, missing):
    if missing == "library":
        monkeypatch.setattr(library, "library", lambda: None)
    model = tiny_model(0, FIELDS if missing == "library" else {"kv_lora_rank": 24})
    assert not model.compiled
    assert whole(model)[1]


def test_those_who_decode_share_a_forward_and_each_says_what_it_says_alone(monkeypatch):
    model = tiny_model(0, FIELDS)
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
