"""Matrix products, norm, router and experts: right, and the same bits whatever stands beside a row."""

import pytest
import torch

from kernels import moe_reference, route
from kernels.cpu import build, library
from kernels.cpu.ops import BF16, FP32, Experts, matmul, pack, rms_norm, set_threads
from tests.kernels.cases import assert_near
from tests.kernels.cpu.calling import Router, add_experts, add_matmul, norm_in_place

NAN = float("nan")


def like_stored(*shape):
    """Numbers that bf16 holds, as a checkpoint's."""
    return torch.randn(*shape).bfloat16().float()


def strided(x, beside=7):
    """The same numbers with NaN between the rows."""
    wide = torch.full((x.shape[0], x.shape[1] + beside), NAN)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]


@pytest.mark.parametrize(("depth", "columns"), [(16, 1), (48, 33), (64, 128), (384, 1828), (130, 100)])
@pytest.mark.parametrize("weight", [like_stored, torch.randn], ids=["bf16", "fp32"])
def test_a_product_is_right_and_a_row_does_not_feel_its_neighbours(variant, depth, columns, weight):
    x, w = torch.randn(70, depth), weight(columns, depth)
    packed = pack(w)
    assert packed.c.form == (BF16 if weight is like_stored else FP32)
    whole = matmul(strided(x), packed)
    assert_near(whole, x.double() @ w.double().T, 1e-5)
    for start, stop in [(0, 1), (5, 6), (3, 7), (0, 13), (20, 70), (69, 70)]:
        assert torch.equal(matmul(x[start:stop], packed), whole[start:stop])


def test_a_product_is_added_to_what_is_there_and_to_nothing_else(variant):
    x, w = torch.randn(30, 64), like_stored(37, 64)
    y = torch.randn(30, 50)
    before, packed = y.clone(), pack(w)
    add_matmul(y[:, :37], x, packed)
    assert torch.equal(y[:, :37], before[:, :37] + matmul(x, packed))
    assert torch.equal(y[:, 37:], before[:, 37:])


def test_what_bf16_cannot_hold_is_kept_whole(variant):
    w = like_stored(8, 16)
    w[3, 3] = 1 + 2**-20
    assert torch.equal(matmul(torch.eye(16), pack(w)), w.T)


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
def test_experts_give_what_the_definition_gives_in_any_company(variant, inner):
    width, count, tokens = 64, 5, 60
    routed = [(like_stored(inner, width), like_stored(inner, width), like_stored(width, inner)) for _ in range(count)]
    shared = like_stored(2 * inner, width), like_stored(2 * inner, width), like_stored(width, 2 * inner)
    experts, chosen = Experts.of(routed, shared), router(count, width)
    x, before = torch.randn(tokens, width), torch.randn(tokens, width)
    y = before.clone()
    add_experts(experts, y, strided(x), *chosen(x))
    w1, w3, w2 = (torch.stack(parts).double() for parts in zip(*routed, strict=True))
    indices, weights = chosen(x)
    want = moe_reference(x.double(), indices, weights.double(), w1, w3, w2)
    every = torch.zeros(tokens, 1, dtype=torch.int64), torch.ones(tokens, 1).double()
    want += moe_reference(x.double(), *every, *(part[None].double() for part in shared))
    assert_near(y - before, want, 1e-5)
    for start, stop in [(0, 1), (7, 9), (30, 60)]:
        alone = before[start:stop].clone()
        add_experts(experts, alone, x[start:stop], *chosen(x[start:stop]))
        assert torch.equal(alone, y[start:stop])


def test_every_library_and_any_number_of_threads_give_the_same_bits(monkeypatch):
    x, w, norm = torch.randn(40, 128), like_stored(200, 128), torch.randn(128)
    expert = like_stored(96, 128), like_stored(96, 128), like_stored(128, 96)
    experts, chosen = Experts.of([expert] * 3, expert), router(3, 128)

    def everything():
        y = rms_norm(x, norm, 1e-5)
        add_experts(experts, y, x, *chosen(x))
        return torch.cat([y, matmul(y, pack(w))], 1)

    found = []
    for name in library.suitable():
        opened = library.open_library(build.path_of(name))
        monkeypatch.setattr(library, "library", lambda opened=opened: opened)
        for threads in (1, 2, 3):
            set_threads(threads)
            found.append(everything())
    assert all(torch.equal(found[0], other) for other in found)
