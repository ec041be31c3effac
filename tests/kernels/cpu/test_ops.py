"""Matrix products, norm, router and experts: right, and the same bits whatever stands beside a row.

`exact` products are fp32's; `rounded` ones round their rows to bf16 and have matrices of bf16, `bytes` ones of int8.
"""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels import moe_reference, route
from kernels.cpu import build, library
from kernels.cpu.ops import (
    BF16,
    BYTES,
    FP32,
    PAIRS,
    Experts,
    matmul,
    order_of_sums,
    pack,
    pack_bytes,
    rms_norm,
    set_threads,
)
from tests.kernels.cases import assert_near
from tests.kernels.cpu.calling import Router, add_experts, add_matmul, norm_in_place

NAN = float("nan")
AMX, PAIRWISE = "15dab9b5", "d24f23e1"  # ops.order_of_sums()


def like_stored(*shape):
    """Numbers that bf16 holds, as a checkpoint's."""
    return torch.randn(*shape).bfloat16().float()


ROUNDED = pytest.mark.parametrize("rounded", [False, True], ids=["exact", "rounded"])


def held(w, rounded):
    """A matrix as a model in one dtype or the other has it."""
    return w.bfloat16() if rounded else w


def seen(x, rounded):
    """Rows in float64, as products see them."""
    return x.bfloat16().double() if rounded else x.double()


def in_bytes(w):
    """The whole numbers that stand for w, row by row."""
    return (w / (w.abs().amax(1, keepdim=True) / 127)).round()


def strided(x, beside=7):
    """The same numbers with NaN between the rows."""
    wide = torch.full((x.shape[0], x.shape[1] + beside), NAN)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


@pytest.mark.parametrize(("depth", "columns"), [(16, 1), (48, 33), (64, 128), (384, 1828), (130, 100)])
@pytest.mark.parametrize("kind", ["bf16", "fp32", "pairs", "bytes"])
def test_a_product_is_right_and_a_row_does_not_feel_its_neighbours(variant, depth, columns, kind):
    x, w = torch.randn(70, depth), (torch.randn if kind == "fp32" else like_stored)(columns, depth)
    rounded = kind in ("pairs", "bytes")
    packed = (pack_bytes if kind == "bytes" else pack)(held(w, rounded))
    assert packed.c.form == {"bf16": BF16, "fp32": FP32, "pairs": PAIRS, "bytes": BYTES}[kind]
    whole = matmul(strided(x), packed)
    numbers = torch.outer(packed.scales[:columns].double(), torch.ones(depth)) * in_bytes(w) if kind == "bytes" else w
    assert_near(whole, seen(x, rounded) @ numbers.double().T, 1e-5)
    for start, stop in [(0, 1), (5, 6), (3, 7), (0, 13), (0, 16), (9, 41), (20, 70), (69, 70)]:
        assert torch.equal(matmul(x[start:stop], packed), whole[start:stop])


@ROUNDED
@pytest.mark.parametrize("tokens", [1, 30])
def test_a_product_is_added_to_what_is_there_and_to_nothing_else(variant, tokens, rounded):
    x, w = torch.randn(tokens, 64), like_stored(37, 64)
    y = torch.randn(tokens, 50)
    before, packed = y.clone(), pack(held(w, rounded))
    add_matmul(y[:, :37], x, packed)
    assert torch.equal(y[:, :37], before[:, :37] + matmul(x, packed))
    assert torch.equal(y[:, 37:], before[:, 37:])


def test_what_bf16_cannot_hold_is_kept_whole(variant):
    w = like_stored(8, 16)
    w[3, 3] = 1 + 2**-20
    assert torch.equal(matmul(torch.eye(16), pack(w)), w.T)


def test_rows_are_rounded_as_torch_rounds_them(variant):
    """By a product with the identity; subnormal numbers, which the instructions take as zeros, become zeros."""
    x = torch.randn(100, 32) * 2.0 ** torch.randint(-60, 60, (100, 32))
    x[0, :8] = torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 65504.0, 3.3e38, -1e-44])
    x[1, :3] = torch.tensor([float("inf"), NAN, 1e-39])
    found = matmul(x, pack(torch.eye(32).bfloat16()))
    plain, want = found[2:], x.bfloat16().float()
    assert torch.equal(plain, want[2:])
    assert torch.equal(found[0, :7], want[0, :7]) and found[0, 7] == 0
    assert found[1].isnan().all()


def by_tiles(x, w):
    """bf16.cpp's order of AMX, one rounding after the other."""
    total = torch.zeros(len(x), len(w))
    for block in range(0, x.shape[1], 32):
        chains = [torch.zeros(len(x), len(w)) for _ in range(2)]
        for k in range(block, min(block + 32, x.shape[1])):
            product = x[:, k, None].double() * w[None, :, k].double()
            chains[k % 2] = (chains[k % 2].double() + product).float()
        total = total + (chains[0] + chains[1])
    return total


def by_pairs(x, w):
    total = torch.zeros(len(x), len(w))
    for k in range(0, x.shape[1], 2):
        for one in (k + 1, k):
            total = (total.double() + x[:, one, None].double() * w[None, :, one].double()).float()
    return total


def test_rounded_products_have_the_bits_of_their_order(variant):
    """What every instruction set does, told by arithmetic: an emulation on another one would share its readings."""
    x, w = torch.randn(20, 96), like_stored(40, 96)
    order = by_tiles if variant == "amx" else by_pairs
    assert torch.equal(matmul(x, pack(w.bfloat16())), order(x.bfloat16(), w))


@pytest.mark.parametrize("tokens", [1, 20])
def test_bytes_have_the_bits_of_the_same_numbers_in_bf16(variant, tokens):
    """Which are whole, so that bf16 holds them; a column's scale multiplies its sum, once."""
    x, w = torch.randn(tokens, 96), like_stored(40, 96)
    w[7] = 0
    numbers = in_bytes(w).nan_to_num().bfloat16()
    scales = w.abs().amax(1) / 127
    assert torch.equal(matmul(x, pack_bytes(w.bfloat16())), matmul(x, pack(numbers)) * scales)


def test_a_byte_is_half_a_step_off_at_most(variant):
    w = (torch.randn(40, 64) * 10 ** torch.randn(40, 1)).bfloat16()
    found = matmul(torch.eye(64), pack_bytes(w)).T
    assert ((found - w.float()).abs() <= 0.5001 / 127 * w.float().abs().amax(1, keepdim=True)).all()


def test_the_order_of_sums_is_told_by_eight_digits(variant):
    told = order_of_sums()
    assert len(told) == 8
    assert (told == AMX) == (variant == "amx") and (told == PAIRWISE) == (variant != "amx")


def test_the_norm_may_be_written_where_it_was_read(variant):
    x, w = torch.randn(50, 96), torch.randn(96)
    want = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * w
    apart = strided(x)
    assert_near(rms_norm(apart, w, 1e-5), want, 1e-6)
    norm_in_place(apart, w, 1e-5)
    assert_near(apart, want, 1e-6)


def router(experts, width, **changed):
    settings = {"top_k": 2, "scale": 1.5, "renormalize": True, "bias_in_weights": False} | changed
    return Router(like_stored(experts, width), torch.randn(experts), **settings)


@pytest.mark.parametrize("changed", [{}, {"renormalize": False}, {"bias_in_weights": True}, {"top_k": 5}])
def test_the_router_chooses_and_weighs_as_the_definition_does(variant, changed):
    x, r = torch.randn(75, 64), router(5, 64, **changed)
    indices, weights = r(x)
    told = route(x.double(), r.weight.double(), r.bias.double(), r.top_k, r.scale, r.renormalize, r.bias_in_weights)
    assert torch.equal(indices, told[0])
    assert_near(weights, told[1], 1e-5)


def test_of_equal_experts_the_first_is_chosen(variant):
    equal = Router(torch.zeros(4, 16), torch.zeros(4), 2, 1.0, True, False)
    indices, weights = equal(torch.randn(3, 16))
    assert indices.tolist() == [[0, 1]] * 3
    assert_near(weights, torch.full((3, 2), 0.5), 1e-6)


@pytest.mark.parametrize("inner", [32, 40, 128])
def test_experts_in_bytes_are_those_in_bf16_with_the_numbers_that_bytes_stand_for(variant, inner):
    """With rows of power-of-two maxima times 127, so that scales are exact and may as well lie in the matrix."""
    width, count, tokens, draw = 64, 3, 40, torch.Generator().manual_seed(1)

    def whole(rows, depth):
        numbers = torch.randint(-127, 128, (rows, depth), generator=draw).float()
        numbers[:, 0] = 127
        return (numbers * 2.0 ** torch.randint(-9, -6, (rows, 1), generator=draw)).bfloat16()

    parts = [(whole(inner, width), whole(inner, width), whole(width, inner)) for _ in range(count + 1)]
    x, chosen = torch.randn(tokens, width), router(count, width)(torch.randn(tokens, width))
    results = []
    for form in (pack, pack_bytes):
        y = torch.zeros(tokens, width)
        add_experts(Experts.of(parts[:-1], parts[-1], form), y, x, *chosen)
        alone = torch.zeros(1, width)
        add_experts(Experts.of(parts[:-1], parts[-1], form), alone, x[:1], *(part[:1] for part in chosen))
        assert torch.equal(alone[0], y[0])
        results.append(y)
    assert torch.equal(*results)


@ROUNDED
@pytest.mark.parametrize("inner", [32, 40, 128])
def test_experts_give_what_the_definition_gives_in_any_company(variant, inner, rounded):
    width, count, tokens = 64, 5, 60
    routed = [(like_stored(inner, width), like_stored(inner, width), like_stored(width, inner)) for _ in range(count)]
    shared = like_stored(2 * inner, width), like_stored(2 * inner, width), like_stored(width, 2 * inner)
    stored = [tuple(held(w, rounded) for w in expert) for expert in (*routed, shared)]
    experts, chosen = Experts.of(stored[:-1], stored[-1]), router(count, width)
    x, before = torch.randn(tokens, width), torch.randn(tokens, width)
    y = before.clone()
    add_experts(experts, y, strided(x), *chosen(x))
    w1, w3, w2 = (torch.stack(parts).double() for parts in zip(*routed, strict=True))
    indices, weights = chosen(x)
    want = moe_reference(seen(x, rounded), indices, weights.double(), w1, w3, w2)
    every = torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1).double()
    want += moe_reference(seen(x, rounded), *every, *(part[None].double() for part in shared))
    assert_near(y - before, want, 3e-3 if rounded else 1e-5)  # the inner activations are rounded too
    for start, stop in [(0, 1), (7, 9), (30, 60)]:
        alone = before[start:stop].clone()
        add_experts(experts, alone, x[start:stop], *chosen(x[start:stop]))
        assert torch.equal(alone, y[start:stop])


@pytest.mark.parametrize("threads", [2, 7])
def test_tasks_are_done_once_each_whoever_comes_late(variant, threads):
    """Thousands of small calls from two of Python's threads, with more threads than processors to take their tasks."""
    set_threads(threads)
    matrices = [pack(like_stored(columns, 128)) for columns in (300, 1000, 2100)]
    rows = [torch.randn(count, 128) for count in (1, 3, 20)]
    expected = {(i, j): matmul(x, w) for i, x in enumerate(rows) for j, w in enumerate(matrices)}

    def wrong(seed):
        draw = random.Random(seed)
        places = [(draw.randrange(3), draw.randrange(3)) for _ in range(1000)]
        return sum(not torch.equal(matmul(rows[i], matrices[j]), expected[i, j]) for i, j in places)

    with ThreadPoolExecutor(2) as callers:
        assert list(callers.map(wrong, (1, 2))) == [0, 0]


@ROUNDED
def test_every_library_and_any_number_of_threads_give_the_same_bits(monkeypatch, rounded):
    x, w, norm = torch.randn(40, 128), like_stored(200, 128), torch.randn(128)
    expert = like_stored(96, 128), like_stored(96, 128), like_stored(128, 96)
    expert = tuple(held(part, rounded) for part in expert)
    chosen = router(3, 128)

    def everything():
        y = rms_norm(x, norm, 1e-5)
        add_experts(Experts.of([expert] * 3, expert), y, x, *chosen(x))
        return torch.cat([y, matmul(y, pack(held(w, rounded)))], 1)

    found = {}
    for name in library.suitable():
        opened = library.open_library(build.path_of(name))
        monkeypatch.setattr(library, "library", lambda opened=opened: opened)
        for threads in (1, 2, 3):
            set_threads(threads)
            order = order_of_sums() if rounded else ""
            assert torch.equal(everything(), found.setdefault(order, everything()))
    assert len(found) <= (2 if rounded else 1)
