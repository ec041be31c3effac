import pytest
import torch

from engine import ModelConfig
from engine.build import build_model
from engine.testing import BOUNDED, FULL_RANK, TINY, random_tensors, tiny_model
from tests.engine import reference
from tests.engine.driving import decode, engine_of, read, some_ids
from tests.kernels.cases import assert_near

VARIANTS = {
    "every kind of layer": {},
    "tied": {"tie_word_embeddings": True},
    "experts one by one": {"num_experts": 10, "num_experts_per_token": 2},
    "latent norm with its own eps": {"kv_a_layernorm_eps": 1e-2},
    "all dense": {"first_k_dense_replace": 4},
    "a decay with a bound": BOUNDED,
    "and an output gate of full rank": FULL_RANK,
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("tokens", [1, 70])
def test_logits_are_those_of_the_formulas(fields, tokens):
    config = ModelConfig.from_dict(TINY | fields)
    tensors = random_tensors(config, seed=3)
    engine = engine_of(build_model(config, tensors, torch.device("cpu"), torch.float32))
    ids = some_ids(tokens)
    expected = reference.logits(config, tensors, ids)
    sequence = engine.open()
    scored = [event.logprob for event in read(engine, sequence, ids, score=True) if hasattr(event, "logprob")]
    assert_near(engine._sequences[sequence].logits, expected[-1], 1e-5)
    logprobs = torch.log_softmax(expected, -1)
    assert scored == pytest.approx([float(logprobs[t, ids[t + 1]]) for t in range(tokens - 1)], abs=1e-4)


def test_greedy_decoding_is_that_of_the_formulas():
    config = ModelConfig.from_dict(TINY)
    tensors = random_tensors(config, seed=4)
    engine = engine_of(build_model(config, tensors, torch.device("cpu"), torch.float32))
    ids = some_ids(40)
    sequence = engine.open()
    read(engine, sequence, ids)
    for token in decode(engine, sequence, max_tokens=6):
        assert token == int(reference.logits(config, tensors, ids)[-1].argmax())
        ids.append(token)


@pytest.mark.parametrize("fields", [{}, BOUNDED, FULL_RANK], ids=["first", "bounded", "full rank"])
def test_the_newer_gates_run_in_pytorch_where_the_first_are_compiled(fields):
    suited = {"kv_lora_rank": 32, "qk_rope_head_dim": 16}
    assert tiny_model(fields=suited | fields).compiled == (fields == {})
