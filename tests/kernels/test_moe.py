import pytest
import torch
import torch.nn.functional as F

from kernels import moe, moe_reference, route, weigh_experts
from tests.kernels.cases import assert_near

TOKENS, HIDDEN, EXPERTS, INNER, TOP = 9, 8, 5, 6, 2


def experts():
    return [torch.randn(EXPERTS, INNER, HIDDEN).double() for _ in range(2)] + [
        torch.randn(EXPERTS, HIDDEN, INNER).double()
    ]


def test_a_large_bias_chooses_but_does_not_weigh():
    x, gate = torch.randn(TOKENS, HIDDEN), torch.randn(EXPERTS, HIDDEN)
    bias = torch.tensor([0.0, 100.0, 0.0, 50.0, 0.0])
    indices, weights = route(x, gate, bias, TOP, scale=2.446, renormalize=True)
    assert indices.tolist() == [[1, 3]] * TOKENS
    scores = torch.sigmoid(x.double() @ gate.double().T)[:, [1, 3]]
    assert_near(weights, 2.446 * scores / scores.sum(-1, keepdim=True), 1e-6)


def test_without_renormalising_the_scores_are_only_scaled():
    x, gate = torch.randn(TOKENS, HIDDEN), torch.randn(EXPERTS, HIDDEN)
    indices, weights = route(x, gate, torch.zeros(EXPERTS), TOP, scale=0.5, renormalize=False)
    assert_near(weights, 0.5 * torch.sigmoid(x @ gate.T).gather(1, indices), 1e-6)


def test_the_released_slip_can_be_reproduced():
    x, gate, bias = torch.randn(TOKENS, HIDDEN), torch.randn(EXPERTS, HIDDEN), torch.rand(EXPERTS)
    indices, weights = route(x, gate, bias, TOP, scale=1.0, renormalize=True, bias_in_weights=True)
    biased = (torch.sigmoid(x @ gate.T) + bias).gather(1, indices)
    assert_near(weights, biased / biased.sum(-1, keepdim=True), 1e-6)


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_grouped_experts_give_what_the_definition_gives(tokens):
    x, (w1, w3, w2) = torch.randn(tokens, HIDDEN).double(), experts()
    indices, weights = torch.rand(tokens, EXPERTS).topk(TOP).indices, torch.rand(tokens, TOP).double()
    expected = moe_reference(x, indices, weights, w1, w3, w2)
    assert_near(moe(x, indices, weights, w1, w3, w2), expected, 1e-12)


def test_all_experts_side_by_side_give_the_same():
    x, (w1, w3, w2) = torch.randn(TOKENS, HIDDEN).double(), experts()
    indices, weights = torch.rand(TOKENS, EXPERTS).topk(TOP).indices, torch.rand(TOKENS, TOP).double()
    hidden = F.silu(x @ w1.flatten(0, 1).T) * (x @ w3.flatten(0, 1).T)
    found = weigh_experts(hidden, indices, weights, EXPERTS) @ w2.transpose(0, 1).flatten(1).T
    assert_near(found, moe_reference(x, indices, weights, w1, w3, w2), 1e-12)
