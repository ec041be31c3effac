import pytest
import torch

import kernels.mla
from kernels import mla_absorbed, mla_expanded
from tests.kernels.cases import assert_near

HEADS, NOPE, ROPE, VALUE, RANK, PAGE, BLOCK = 3, 8, 4, 6, 10, 8, 32


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(kernels.mla, "BLOCK_TOKENS", BLOCK)


def case(tokens, length, scale=1.0, dtype=torch.float64):
    """q, latents, kv_b; and the latents in shuffled pages, everything that is not a latent being NaN."""
    q = torch.randn(tokens, HEADS, NOPE + ROPE, dtype=torch.float64) * scale
    latents = torch.randn(length, RANK + ROPE, dtype=torch.float64)
    kv_b = torch.randn(HEADS, NOPE + VALUE, RANK, dtype=torch.float64)
    q, latents, kv_b = (x.to(dtype) for x in (q, latents, kv_b))
    count = -(-length // PAGE)
    table = torch.randperm(count + 5)[:count]
    pages = torch.full((count + 5, PAGE, RANK + ROPE), float("nan"), dtype=dtype)
    for s in range(length):
        pages[table[s // PAGE], s % PAGE] = latents[s]
    return q, latents, kv_b, pages, table


@pytest.mark.parametrize("length", [1, 5, 8, 31, 32, 33, 64, 65, 100])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_absorbed_gives_what_expanded_gives(tokens, length):
    if tokens > length:
        pytest.skip("more queries than keys")
    q, latents, kv_b, pages, table = case(tokens, length)
    found = mla_absorbed(q, pages, table, length, kv_b, VALUE)
    assert_near(found, mla_expanded(q, latents, kv_b, VALUE), 1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-4)])
def test_scores_in_the_hundreds_do_not_overflow(dtype, tolerance):
    q, latents, kv_b, pages, table = case(20, 90, scale=60.0, dtype=dtype)
    expected = mla_expanded(q.double(), latents.double(), kv_b.double(), VALUE)
    assert_near(mla_absorbed(q, pages, table, 90, kv_b, VALUE), expected, tolerance)


def test_a_token_sees_itself_and_what_came_before():
    q, _, kv_b, pages, table = case(10, 50)
    before = mla_absorbed(q, pages, table, 50, kv_b, VALUE)
    pages[table[45 // PAGE], 45 % PAGE] += 1.0
    changed = (mla_absorbed(q, pages, table, 50, kv_b, VALUE) != before).any(-1).any(-1)
    assert changed.tolist() == [position >= 45 for position in range(40, 50)]


def test_the_scale_counts_the_unrotated_part():
    """One head, two keys, identity expansion: the softmax is known."""
    kv_b = torch.eye(2, dtype=torch.float64).repeat(2, 1)[None]  # N = V = R = 2
    latents = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]], dtype=torch.float64)
    q = torch.tensor([[[2.0, 4.0, 1.0]]], dtype=torch.float64)
    p = torch.softmax(torch.tensor([2.0 + 3.0, 4.0 + 5.0], dtype=torch.float64) * 3**-0.5, 0)
    for found in (mla_expanded(q, latents, kv_b, 2), mla_absorbed(q, latents[None], torch.tensor([0]), 2, kv_b, 2)):
        assert_near(found[0, 0], p, 1e-12)
