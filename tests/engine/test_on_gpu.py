"""On a CUDA device: states in and out by pinned memory, beside the forwards."""

import pytest
import torch

from engine import Done, ModelConfig, ProvenanceError, Snapshot
from engine.build import build_model
from engine.testing import random_tensors
from tests.engine.driving import engine_of, read, run, some_ids, state
from tests.kernels.test_on_gpu import SMALL_48B

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def model():
    config = ModelConfig.from_dict(SMALL_48B)
    return build_model(config, random_tensors(config, seed=4), torch.device("cuda"), torch.bfloat16)


def small(model):
    return engine_of(model, prefill_tokens_per_step=64, page_tokens=256)


def test_out_in_the_middle_of_a_read_and_in_beside_another_one(model):
    old, new, ids = small(model), small(model), some_ids(500)
    sequence = old.open()
    old.read(sequence, ids)
    for _ in range(5):
        old.step()
    exported = old.export(sequence)
    company = new.open()
    new.read(company, ids)
    restored = new.begin_restore(320)
    buffer = torch.empty(1, 100, 576, dtype=torch.bfloat16, pin_memory=True)
    for first in (100, 300, 0, 200):
        rows = exported.latents[:, first : first + 100]
        new.put_latents(restored, first, buffer[:, : rows.shape[1]].copy_(rows))
        new.step()
    new.finish_restore(restored, Snapshot(exported.position, exported.digest, exported.tensors))
    assert new.export(restored).tags == exported.tags
    new.read(restored, ids[320:])
    run(old), run(new)
    for engine, other in ((new, restored), (new, company)):
        assert engine.digest(other) == old.digest(sequence)
        for name, x in state(engine, other).items():
            assert torch.equal(x, state(old, sequence)[name]), name


@pytest.mark.parametrize("name", ["kda", "conv", "latents"])
def test_numbers_that_moved_behind_their_tags(model, name):
    engine = small(model)
    s, other = (engine._sequences[engine.open()] for _ in range(2))
    read(engine, s.id, some_ids(100))
    read(engine, other.id, some_ids(100, seed=1))
    pool = getattr(engine.pools, name)
    row, neighbour = (s.pages[0], other.pages[0]) if name == "latents" else (s.slot, other.slot)
    pool[:, row] = pool[:, neighbour]
    with pytest.raises(ProvenanceError, match="the numbers are not"):
        engine.export(s.id)
    engine.read(s.id, some_ids(10))
    assert [e.reason for e in run(engine) if isinstance(e, Done)] == ["error"]
