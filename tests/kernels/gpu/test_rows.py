"""rows.py against the definitions in float64."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kernels import gated_rms_norm as gated_norm_defined
from kernels import rms_norm as norm_defined
from kernels import short_conv_reference
from kernels.gpu.packing import Packing
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU

pytest.importorskip("triton")
from kernels.gpu import rows

EPS = 1e-5
WITHIN = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
on_gpu = pytest.mark.skipif(not ON_GPU, reason="large: on a GPU")
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def random(device, dtype, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def wide(*tensors: Tensor) -> list[Tensor]:
    return [x.double().cpu() for x in tensors]


@dtypes
@pytest.mark.parametrize(("count", "width"), [(3, 40), (1, 64), pytest.param(700, 2304, marks=on_gpu)])
def test_rms_norm(dtype, count, width, device):
    x, weight = random(device, dtype, count, width + 8)[:, :width], random(device, torch.float32, width)
    found = rows.rms_norm(x, weight, EPS)
    assert found.dtype == dtype
    assert_near(found.cpu(), norm_defined(*wide(x, weight), EPS), WITHIN[dtype])
    assert torch.equal(rows.rms_norm(x[-1:], weight, EPS)[0], found[-1])


@dtypes
@pytest.mark.parametrize(("count", "heads", "value"), [(3, 3, 16), (2, 1, 24), pytest.param(70, 32, 128, marks=on_gpu)])
def test_gated_rms_norm(dtype, count, heads, value, device):
    o, z = random(device, dtype, count, heads, value), random(device, dtype, count, heads * value)
    weight = random(device, torch.float32, value)
    found = rows.gated_rms_norm(o, z, weight, EPS)
    expected = gated_norm_defined(*wide(o, z.unflatten(1, (heads, -1)), weight), EPS).flatten(1)
    assert_near(found.cpu(), expected, WITHIN[dtype])
    assert torch.equal(rows.gated_rms_norm(o[-1:], z[-1:], weight, EPS)[0], found[-1])


@dtypes
@pytest.mark.parametrize(("count", "width"), [(3, 24), (1, 1040), pytest.param(700, 9216, marks=on_gpu)])
def test_swiglu(dtype, count, width, device):
    x = random(device, dtype, count, 2 * width)
    gate, up = wide(x)[0].chunk(2, 1)
    assert_near(rows.swiglu(x).cpu(), torch.nn.functional.silu(gate) * up, WITHIN[dtype])


def convolved(x: Tensor, weight: Tensor, lengths: list[int], pool: Tensor, slots: list[int]) -> Tensor:
    """Calls short_conv: ``pool`` is left with the newest inputs."""
    packing = Packing.of(lengths, x.device)
    return rows.short_conv(x, weight, packing, pool, torch.tensor(slots, dtype=torch.int32, device=x.device))


@dtypes
@pytest.mark.parametrize(
    ("lengths", "channels", "width"),
    [
        ([1, 2, 63, 64, 65], 24, 4),
        ([130, 1], 136, 3),
        pytest.param([1, 255, 1000, 2, 64], 12288, 4, marks=on_gpu),
    ],
)
def test_short_conv(dtype, lengths, channels, width, device):
    slots = list(range(2 * len(lengths) - 1, 0, -2))
    x, weight = random(device, dtype, sum(lengths), channels), random(device, dtype, channels, width)
    pool = torch.full((2 * len(lengths), width - 1, channels), torch.nan, dtype=dtype, device=device)
    pool[1::2] = random(device, dtype, len(lengths), width - 1, channels)
    before = pool.clone()
    found = convolved(x, weight, lengths, pool, slots)
    for slot, mine, y in zip(slots, x.split(lengths), found.split(lengths), strict=True):
        expected, history = short_conv_reference(*wide(mine, weight, before[slot]))
        assert_near(y.cpu(), expected, WITHIN[dtype])
        assert torch.equal(pool[slot].double().cpu(), history)
    assert pool[0::2].isnan().all()


@pytest.mark.parametrize("cuts", [[64], [1, 3, 66], [2, 64], [128]])
def test_short_conv_cut_anywhere_gives_the_same_bits(cuts, device):
    x, weight = random(device, torch.bfloat16, 130, 40), random(device, torch.bfloat16, 40, 4)
    pool = random(device, torch.bfloat16, 1, 3, 40)
    cut_pool = pool.clone()
    whole = convolved(x, weight, [130], pool, [0])
    edges = [0, *cuts, 130]
    parts = [convolved(x[a:b], weight, [b - a], cut_pool, [0]) for a, b in pairwise(edges) if b > a]
    assert torch.equal(torch.cat(parts), whole) and torch.equal(cut_pool, pool)


@dtypes
@pytest.mark.parametrize(
    ("news", "lengths", "rank", "shared", "page"),
    [
        ([1, 20, 3], [33, 20, 16], 24, 8, 16),
        ([1, 1, 1], [17, 0, 16], 16, 4, 16),
        pytest.param([1, 700, 64], [100_000, 5000, 64], 512, 64, 256, marks=on_gpu),
    ],
)
def test_put_latents(dtype, news, lengths, rank, shared, page, device):
    """Every row lands in its place, and no other cell of the pool changes."""
    needed = [-(-n // page) for n in lengths]
    pages = torch.full((sum(needed) + 2, page, rank + shared), torch.nan, dtype=dtype, device=device)
    order = torch.randperm(sum(needed) + 2)[: sum(needed)].split(needed)
    tables = torch.full((len(news), max(needed) + 1), -1, dtype=torch.int32)
    for n, numbers in enumerate(order):
        tables[n, : len(numbers)] = numbers
    latent = random(device, dtype, sum(news), rank + shared + 8)[:, : rank + shared]
    weight = random(device, torch.float32, rank)
    there = torch.tensor(lengths, dtype=torch.int32, device=device)
    rows.put_latents(latent, pages, tables.to(device), Packing.of(news, device), there, weight, EPS, rank)
    expected = torch.full(pages.shape, torch.nan, dtype=torch.float64)
    for n, (mine, length) in enumerate(zip(latent.split(news), lengths, strict=True)):
        for i, row in enumerate(wide(mine)[0]):
            at = length - news[n] + i
            if length:
                normed = norm_defined(row[:rank], weight.double().cpu(), EPS)
                expected[tables[n, at // page], at % page] = torch.cat([normed, row[rank:]])
    found, written = pages.double().cpu(), ~expected.isnan()
    assert torch.equal(written, ~found.isnan())
    assert_near(found[written], expected[written], WITHIN[dtype])
    assert torch.equal(found[..., rank:][written[..., rank:]], expected[..., rank:][written[..., rank:]])


@dtypes
@pytest.mark.parametrize(
    ("count", "depth", "columns"),
    [
        (1, 64, 32),
        (5, 300, 20),
        (16, 512, 16),
        pytest.param(1, 2304, 12288 + 8192 + 32, marks=on_gpu),
        pytest.param(3, 4096, 2304, marks=on_gpu),
        pytest.param(16, 9216, 2304, marks=on_gpu),
        pytest.param(16, 2304, 163840, marks=on_gpu),
    ],
)
def test_linear(dtype, count, depth, columns, device):
    x, weight = random(device, dtype, count, depth + 8)[:, :depth], random(device, dtype, columns, depth) / depth**0.5
    found = rows.linear(x, weight)
    assert found.dtype == dtype
    assert_near(found, x.double() @ weight.double().T, max(1e-5, WITHIN[dtype]))  # sums of thousands
    for i in {0, count // 2, count - 1}:
        if ON_GPU or count <= 8:  # numpy's order of a sum depends on the shape
            assert torch.equal(rows.linear(x[i : i + 1], weight)[0], found[i])


@dtypes
@pytest.mark.parametrize(("count", "depth", "columns"), [(3, 64, 40), pytest.param(9, 4096, 2304, marks=on_gpu)])
def test_linear_adds_to_rows(dtype, count, depth, columns, device):
    x, weight = random(device, dtype, count, depth), random(device, dtype, columns, depth) / depth**0.5
    add = random(device, dtype, count, columns + 8)[:, :columns]
    found = rows.linear(x, weight, add, torch.float32)
    assert found.dtype == torch.float32
    assert_near(found.cpu(), wide(x)[0] @ wide(weight)[0].T + wide(add)[0], 1e-5)
    assert torch.equal(rows.linear(x[-1:], weight, add[-1:]), rows.linear(x, weight, add)[-1:])


@dtypes
@pytest.mark.parametrize(
    ("count", "depth", "columns", "held"),
    [
        (1, 300, 20, 9),
        (3, 256, 9, 9),
        (2, 1104, 5, 2),  # rows longer than what is held
        pytest.param(1, 2304, 256, 9, marks=on_gpu),
        pytest.param(16, 2304, 256, 9, marks=on_gpu),
        pytest.param(2, 12288, 256, 9, marks=on_gpu),
    ],
)
def test_narrow_is_a_norm_and_its_product(dtype, count, depth, columns, held, device, monkeypatch):
    monkeypatch.setattr(rows, "HELD", held)
    x, weight = random(device, dtype, count, depth + 8)[:, :depth], random(device, dtype, columns, depth) / depth**0.5
    norm = rows.Norm(random(device, dtype, depth), EPS)
    normed, found = rows.narrow(x, norm, weight)
    x_, norm_, weight_ = wide(x, norm.weight, weight)
    expected = norm_defined(x_, norm_, EPS)
    assert normed.dtype == dtype and found.dtype == torch.float32
    assert_near(normed.cpu(), expected, WITHIN[dtype])
    assert_near(found.cpu(), expected @ weight_.T, 1e-5)
    for i in {0, count // 2, count - 1}:
        for alone, together in zip(rows.narrow(x[i : i + 1], norm, weight), (normed, found), strict=True):
            assert torch.equal(alone[0], together[i])


def test_linear_reads_nothing_of_rows_that_are_not_there(device):
    x, weight = random(device, torch.float32, 4, 32), random(device, torch.float32, 24, 32)
    x[2:] = torch.nan
    assert_near(rows.linear(x[:2], weight).cpu(), x[:2].double().cpu() @ weight.double().cpu().T, 2e-6)


@dtypes
@pytest.mark.parametrize(("count", "width"), [(3, 40), (2, 4096), (2, 9001), pytest.param(256, 163840, marks=on_gpu)])
def test_greedy(dtype, count, width, device):
    logits = 4 * random(device, dtype, count, width + 16)[:, :width]
    logits[0, width // 2 :] = -torch.inf
    logits[-1, [width - 1, width // 3, width // 3 + 1]] = 60.0  # the first of equals
    token, logprob, finite = rows.greedy(logits)
    assert finite.tolist() == [0] + [1] * (count - 1)
    right = torch.log_softmax(logits.double(), 1)
    assert token.dtype == torch.int64 and logprob.dtype == torch.float32
    assert token[-1] == width // 3
    peak = logits.amax(1)
    first = [int((row == top).nonzero()[0]) for row, top in zip(logits, peak, strict=True)]
    assert token.tolist() == first
    assert_near(logprob.cpu(), right.gather(1, token[:, None])[:, 0].cpu(), 2e-6)
    assert torch.equal(rows.greedy(logits[-1:])[1], logprob[-1:])
    for odd in (torch.nan, torch.inf, -torch.inf):
        logits[-1, width - 2] = odd
        assert not rows.greedy(logits[-1:])[2]
