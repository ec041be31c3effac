"""The forms that only a GPU takes, as far as a CPU can run them: their cuts, merges and sorting, in fp64 or fp32."""

import pytest
import torch

from kernels import mla_expanded, mla_gpu, moe, moe_reference
from kernels.moe import moe_grouped, moe_single
from tests.kernels.cases import assert_near
from tests.kernels.test_mla import HEADS, NOPE, PAGE, ROPE, VALUE, case


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(mla_gpu, "KEYS", 32)
    monkeypatch.setattr(mla_gpu, "PIECE", 8)
    monkeypatch.setattr(mla_gpu, "SCORES", HEADS * 7 * 2 * PAGE)  # two pages a block for 7 rows, one for 40


@pytest.mark.parametrize("form", [mla_gpu.absorbed, mla_gpu.expanded])
@pytest.mark.parametrize("length", [1, 8, 9, 32, 33, 47, 64, 100])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_either_form_gives_what_the_definition_gives(form, tokens, length):
    if tokens > length:
        pytest.skip("more queries than keys")
    q, latents, kv_b, pages, table = case(tokens, length)
    assert_near(form(q, pages, table, length, kv_b, VALUE), mla_expanded(q, latents, kv_b, VALUE), 1e-12)


@pytest.mark.parametrize("form", [mla_gpu.absorbed, mla_gpu.expanded])
def test_scores_in_the_hundreds_do_not_overflow(form):
    q, latents, kv_b, pages, table = case(20, 90, scale=60.0)
    assert_near(form(q, pages, table, 90, kv_b, VALUE), mla_expanded(q, latents, kv_b, VALUE), 1e-12)


def test_blocks_cover_the_prefix_once_and_have_few_sizes():
    for length in range(1, 200):
        blocks = list(mla_gpu._blocks(length))
        assert [start for start, _ in blocks] == [0] + [stop for _, stop in blocks[:-1]] and blocks[-1][1] == length
        assert sum((stop - start) % mla_gpu.PIECE != 0 for start, stop in blocks) == (length % mla_gpu.PIECE != 0)
    assert list(mla_gpu._blocks(0)) == []


def test_rows_without_a_common_key_merge_by_their_mass():
    """All the mass on one side: the other side's values, however wild, do not matter."""
    heavy = torch.randn(3, HEADS, NOPE + ROPE), torch.full((3, HEADS), 500.0)
    light = torch.randn(3, HEADS, NOPE + ROPE) * 1e6, torch.full((3, HEADS), -500.0)
    values, mass = mla_gpu._merge((heavy[0].clone(), heavy[1]), light)
    assert_near(values, heavy[0], 1e-6)
    assert torch.equal(mass, heavy[1])


@pytest.mark.parametrize("tokens", [1, 9, 70])
@pytest.mark.parametrize("experts, top", [(5, 2), (64, 8)])
def test_sorted_experts_give_what_the_definition_gives(tokens, experts, top):
    """With 64 experts and one token most groups are empty."""
    x, w1, w3 = torch.randn(tokens, 16), torch.randn(experts, 8, 16), torch.randn(experts, 8, 16)
    w2, indices = torch.randn(experts, 16, 8), torch.rand(tokens, experts).topk(top).indices
    weights = torch.rand(tokens, top)
    expected = moe_reference(*(y.double() if y.is_floating_point() else y for y in (x, indices, weights, w1, w3, w2)))
    assert_near(moe_grouped(x, indices, weights, w1, w3, w2), expected, 1e-5)
    assert_near(moe(x, indices, weights, w1, w3, w2), expected, 1e-5)
    if tokens == 1:
        assert_near(moe_single(x, indices, weights, w1, w3, w2), expected, 1e-5)
