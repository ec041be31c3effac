import pytest
import torch

from kernels.gpu import mla_decode as op
from kernels.gpu.packing import Packing
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU
from tests.kernels.gpu.mla_cases import LARGE, Paged, Shape, poison_new_tensors

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2.5e-2}
gpu = pytest.mark.skipif(not ON_GPU, reason="too large for the interpreter")


TRUE = {name: getattr(op, name) for name in ("SPLITS", "FEW", "SHORTEST", "USUAL", "TOGETHER")}


@pytest.fixture(autouse=True)
def many_splits(monkeypatch):
    """Of short sequences. The tests at the true sizes take them back."""
    poison_new_tensors(monkeypatch)
    for name, value in {"SPLITS": 5, "FEW": 3, "SHORTEST": 64, "USUAL": 128, "TOGETHER": 2}.items():
        monkeypatch.setattr(op, name, value)


@pytest.fixture
def true_splits(monkeypatch, many_splits):
    for name, value in TRUE.items():
        monkeypatch.setattr(op, name, value)


def decode(paged: Paged, q: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    lengths = paged.device_lengths() if lengths is None else lengths
    return op.mla_decode(q, paged.pages, paged.tables, lengths, paged.kv_b, paged.shape.value)


def check(paged: Paged, scale: float = 1.0) -> None:
    q = paged.queries(len(paged.lengths), scale)
    found = decode(paged, q)
    for n, length in enumerate(paged.lengths):
        if length == 0:
            assert (found[n] == 0).all()
        else:
            assert_near(found[n : n + 1], paged.expected(q[n : n + 1], n), TOLERANCE[q.dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ragged_lengths_in_one_batch(dtype, device):
    check(Paged.of([1, 63, 64, 65, 0, 255, 257, 15, 700], Shape(), dtype, device))


@pytest.mark.parametrize(
    "shape",
    [
        Shape(heads=1, nope=16, shared=8, value=16, rank=16, page=16),
        Shape(heads=16, nope=24, shared=16, value=40, rank=64, page=256),
        Shape(heads=40, nope=16, shared=16, value=16, rank=32, page=64),
    ],
    ids=["tiny", "tile within a page", "two blocks of heads"],
)
def test_shapes(shape, device):
    check(Paged.of([1, 130, 0, 64], shape, torch.float32, device))


def test_scores_in_the_hundreds_do_not_overflow(device):
    check(Paged.of([200, 3], Shape(), torch.float32, device), scale=60.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_batch(dtype, device):
    lengths = [257, 1, 64, 0, 390, 65] * 4
    paged = Paged.of(lengths, Shape(), dtype, device)
    q = paged.queries(len(lengths))
    together = decode(paged, q)
    wider = torch.nn.functional.pad(paged.tables, (0, 40), value=2**30)  # a longer table: a larger grid
    for n in range(6):
        alone = op.mla_decode(
            q[n : n + 1], paged.pages, wider[n : n + 1], paged.device_lengths()[n : n + 1], paged.kv_b, 24
        )
        assert torch.equal(alone, together[n : n + 1])


def test_an_idle_row_may_hold_anything(device):
    paged = Paged.of([70, 0, 0], Shape(), torch.float32, device)
    q = paged.queries(3)
    q[1:] = float("nan")
    found = decode(paged, q)
    assert (found[1:] == 0).all() and found[0].isfinite().all()


def test_every_token_counts(device):
    paged = Paged.of([330], Shape(), torch.float32, device)
    q = paged.queries(1)
    before = decode(paged, q)
    for token in (0, 63, 64, 191, 192, 329):
        pages = paged.pages.clone()
        pages[paged.tables[0, token // 32], token % 32] += 1.0
        after = op.mla_decode(q, pages, paged.tables, paged.device_lengths(), paged.kv_b, 24)
        assert not torch.equal(after, before)


def test_few_rows_are_rows_decoded_one_by_one(device):
    paged = Paged.of([200, 66, 5], Shape(), torch.float32, device)
    counts = [7, 3, 5]
    q = paged.queries(sum(counts))
    packing = Packing.of(counts, device)
    found = op.mla_few(q, paged.pages, paged.tables, paged.device_lengths(), packing, paged.kv_b, 24)
    for n, (rows, mine) in enumerate(zip(q.split(counts), found.split(counts), strict=True)):
        assert_near(mine, paged.expected(rows, n), TOLERANCE[q.dtype])
    alone = decode(paged, q[[6, 9, 14]])
    assert torch.equal(alone, found[[6, 9, 14]])


def test_the_pool_may_be_a_layer_of_a_larger_one(device):
    paged = Paged.of([100, 31], Shape(), torch.float32, device)
    q, both = paged.queries(2), torch.full((*paged.pages.shape[:2], 2, paged.pages.shape[2]), float("nan"))
    layer = both.to(device)[:, :, 1]
    layer.copy_(paged.pages)
    found = op.mla_decode(q, layer, paged.tables, paged.device_lengths(), paged.kv_b, 24)
    assert torch.equal(found, decode(paged, q))


@pytest.fixture(params=[True, False], ids=["hopper", "triton"])
def hopper(request, monkeypatch):
    monkeypatch.setattr(op, "HOPPER", request.param)


@gpu
@pytest.mark.parametrize("lengths", [[1, 63, 64, 65, 255, 257, 0, 1000, 5000], [131_072], [33_000] * 8])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_size_of_the_48b(dtype, lengths, device, true_splits, hopper):
    check(Paged.of(lengths, LARGE, dtype, device))


@gpu
def test_large_batches_and_graphs(device, true_splits, hopper):
    paged = Paged.of([700 + 37 * n for n in range(70)], LARGE, torch.bfloat16, device)
    q, lengths = paged.queries(70), paged.device_lengths()
    eager = decode(paged, q, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode(paged, q, lengths)
    out.zero_()
    graph.replay()
    assert torch.equal(out, eager)
    for n in (0, 1, 33, 69):
        row = slice(n, n + 1)
        alone = op.mla_decode(q[row], paged.pages, paged.tables[row], lengths[row], paged.kv_b, 128)
        assert torch.equal(alone, eager[row])
