import pytest
import torch
from torch import Tensor

from kernels.gpu import mla_prefill as op
from kernels.gpu.mla_decode import mla_decode
from kernels.gpu.packing import Packing
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU
from tests.kernels.gpu.mla_cases import LARGE, Paged, Shape, poison_new_tensors

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2.5e-2}
gpu = pytest.mark.skipif(not ON_GPU, reason="too large for the interpreter")
RAGGED = [(1, 1), (63, 63), (64, 64), (65, 100), (255, 255), (3, 257), (130, 300)]  # (new rows, all tokens)


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    """Several rounds for short sequences."""
    poison_new_tensors(monkeypatch)
    monkeypatch.setattr(op, "ROUND", 128)


def prefill(paged: Paged, q: Tensor, counts: list[int], lengths: list[int] | None = None) -> Tensor:
    positions = list(paged.lengths) if lengths is None else lengths
    on_device = torch.tensor(positions, dtype=torch.int32, device=q.device)
    packing, value = Packing.of(counts, q.device), paged.shape.value
    return op.mla_prefill(q, paged.pages, paged.tables, on_device, packing, paged.kv_b, value, positions)


def check(paged: Paged, counts: list[int], scale: float = 1.0) -> None:
    q = paged.queries(sum(counts), scale)
    found = prefill(paged, q, counts)
    for n, (rows, mine) in enumerate(zip(q.split(counts), found.split(counts), strict=True)):
        assert_near(mine, paged.expected(rows, n), TOLERANCE[q.dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ragged_sequences_in_one_batch(dtype, device):
    paged = Paged.of([tokens for _, tokens in RAGGED], Shape(), dtype, device)
    check(paged, [rows for rows, _ in RAGGED])


@pytest.mark.parametrize(
    "shape",
    [
        Shape(heads=1, nope=16, shared=8, value=16, rank=16, page=16),
        Shape(heads=2, nope=24, shared=16, value=40, rank=96, page=256),
        Shape(heads=2, nope=32, shared=16, value=32, rank=32, page=64),
    ],
    ids=["tiny", "odd widths", "powers of two"],
)
def test_shapes(shape, device):
    check(Paged.of([150, 64], shape, torch.float32, device), [140, 5])


def test_scores_in_the_hundreds_do_not_overflow(device):
    check(Paged.of([200], Shape(), torch.float32, device), [90], scale=60.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cut", [64, 128, 192, 299])
def test_a_prefill_may_be_cut_anywhere(cut, dtype, device):
    paged = Paged.of([300], Shape(), dtype, device)
    q = paged.queries(300)
    whole = prefill(paged, q, [300])
    parts = [prefill(paged, q[:cut], [cut], [cut]), prefill(paged, q[cut:], [300 - cut])]
    assert torch.equal(torch.cat(parts), whole)


def test_a_sequence_does_not_depend_on_its_batch(device):
    counts, lengths = [70, 5, 130], [200, 257, 130]
    paged = Paged.of(lengths, Shape(), torch.float32, device)
    q = paged.queries(sum(counts))
    together = prefill(paged, q, counts).split(counts)
    for n, rows in enumerate(q.split(counts)):
        lengths_n = paged.device_lengths()[n : n + 1]
        packing = Packing.of([counts[n]], device)
        alone = op.mla_prefill(
            rows, paged.pages, paged.tables[n : n + 1], lengths_n, packing, paged.kv_b, 24, [lengths[n]]
        )
        assert torch.equal(alone, together[n])


@pytest.mark.parametrize("keys", [256, 512])
def test_the_length_of_a_round_changes_no_bit(keys, device, monkeypatch):
    paged = Paged.of([390], Shape(), torch.bfloat16, device)
    q = paged.queries(200)
    short = prefill(paged, q, [200])
    monkeypatch.setattr(op, "ROUND", keys)
    assert torch.equal(prefill(paged, q, [200]), short)


def test_a_token_sees_itself_and_what_came_before(device):
    paged = Paged.of([250], Shape(), torch.float32, device)
    q = paged.queries(200)
    before = prefill(paged, q, [200])
    paged.pages[paged.tables[0, 180 // 32], 180 % 32] += 1.0
    changed = (prefill(paged, q, [200]) != before).flatten(1).any(1)
    assert changed.tolist() == [position >= 180 for position in range(50, 250)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_after_a_prefill_is_near_the_longer_prefill(dtype, device):
    paged = Paged.of([131], Shape(), dtype, device)
    q = paged.queries(131)
    last = mla_decode(q[-1:], paged.pages, paged.tables, paged.device_lengths(), paged.kv_b, 24)
    assert_near(last, prefill(paged, q, [131])[-1:], TOLERANCE[dtype])


@gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_size_of_the_48b(dtype, device, monkeypatch):
    monkeypatch.setattr(op, "ROUND", 1024)
    check(Paged.of([1000, 64, 4100, 5000, 1], LARGE, dtype, device), [1000, 1, 300, 129, 1])


@gpu
@pytest.mark.parametrize("cut", [64, 192, 1024, 2048 + 64, 4033])
def test_the_size_of_the_48b_cut(cut, device, monkeypatch):
    """Tiles of 128 rows that begin elsewhere, and rounds that end elsewhere."""
    monkeypatch.setattr(op, "ROUND", 16_384)
    paged = Paged.of([4100], LARGE, torch.bfloat16, device)
    q = paged.queries(4100)
    whole = prefill(paged, q, [4100])
    monkeypatch.setattr(op, "ROUND", 1024)
    parts = [prefill(paged, q[:cut], [cut], [cut]), prefill(paged, q[cut:], [4100 - cut])]
    assert torch.equal(torch.cat(parts), whole)
