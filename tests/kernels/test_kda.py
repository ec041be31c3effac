import pytest
import torch
import torch.nn.functional as F

from kernels import kda_chunk, kda_gate, kda_recurrence
from tests.kernels.cases import KdaCase, assert_near

LENGTHS = [1, 2, 7, 8, 63, 64, 65, 130, 192]


@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("decay", [0.0, 0.1, 6.0, 200.0])
def test_chunks_give_what_the_recurrence_gives(tokens, decay):
    case = KdaCase(tokens, decay).make()
    for found, expected in zip(kda_chunk(*case), kda_recurrence(*case), strict=True):
        assert_near(found, expected, 1e-11)


@pytest.mark.parametrize("decay", [0.1, 6.0, 200.0])
def test_fp32_stays_near_double_precision_along_a_long_sequence(decay):
    case = KdaCase(640, decay).make()
    o, state = kda_recurrence(*case)
    found_o, found_state = kda_chunk(*(x.float() for x in case))
    assert_near(found_o, o, 1e-5)
    assert_near(found_state, state, 1e-5)


def test_every_token_may_forget_everything():
    q, k, v, g, beta, state = KdaCase(100, 0.0, dtype=torch.float32).make()
    case = (q, k, v, torch.full_like(g, -200.0), beta, state)
    for found, expected in zip(kda_chunk(*case), kda_recurrence(*case), strict=True):
        assert_near(found, expected, 1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.99])
def test_identical_keys_have_a_closed_form(beta):
    """R_ri = -β(1-β)^(r-i-1): with q = k, v = rows of the identity and no decay, o_r - o_(r-1) = β R_r."""
    tokens = 64
    key = F.normalize(torch.randn(1, 1, 16), dim=-1).expand(tokens, 1, 16)
    o, _ = kda_chunk(
        key, key, torch.eye(tokens).unsqueeze(1), torch.zeros(tokens, 1, 16),
        torch.full((tokens, 1), beta), torch.zeros(1, 16, tokens),
    )  # fmt: skip
    R = o[:, 0].diff(dim=0, prepend=torch.zeros(1, tokens)) / beta
    r, i = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
    power = (1 - beta) ** (r - i - 1).clamp_min(0).double()
    expected = torch.where(r == i, 1.0, torch.where(i < r, -beta * power, 0.0))
    assert_near(R, expected, 2e-5)


@pytest.mark.parametrize("cut", [64, 128])
def test_a_cut_at_a_multiple_of_64_changes_no_bit(cut):
    *rows, state = KdaCase(200, 6.0, dtype=torch.float32).make()
    o, final = kda_chunk(*rows, state)
    o_a, middle = kda_chunk(*(x[:cut] for x in rows), state)
    o_b, end = kda_chunk(*(x[cut:] for x in rows), middle)
    assert torch.equal(torch.cat([o_a, o_b]), o) and torch.equal(end, final)


def test_a_later_token_changes_no_bit_of_an_earlier_output():
    case = KdaCase(64, 6.0, dtype=torch.float32).make()
    changed = [x.clone() for x in case]
    for x in changed[:5]:
        x[40:] *= 0.5
    assert torch.equal(kda_chunk(*case)[0][:40], kda_chunk(*changed)[0][:40])


def test_the_state_it_was_given_is_not_written_to():
    case = KdaCase(70, 1.0).make()
    before = case[-1].clone()
    kda_chunk(*case)
    assert torch.equal(case[-1], before)


def test_gate_is_per_head_and_per_channel_and_unbounded():
    """-exp(A_log[h]) softplus(a + dt_bias[h·K + j]), dt_bias flat and head-major."""
    H, K = 2, 3
    a, A_log, dt_bias = torch.randn(5, H * K), torch.tensor([0.3, 2.0]), torch.randn(H * K)
    a[0, 0] = 1e4
    g = kda_gate(a, A_log, dt_bias)
    for h in range(H):
        for j in range(K):
            z = (a[:, h * K + j] + dt_bias[h * K + j]).double()
            assert_near(g[:, h, j], -A_log[h].double().exp() * torch.logaddexp(z, torch.zeros_like(z)), 1e-6)
    assert g[0, 0, 0] < -1e4


def test_gate_with_a_bound_is_a_scaled_sigmoid_of_the_scaled_logit():
    """bound · σ(exp(A_log[h]) (a + dt_bias[h·K + j])): neither a clamp nor a rate outside."""
    H, K = 2, 3
    a, A_log, dt_bias = torch.randn(5, H * K), torch.tensor([0.3, 2.0]), torch.randn(H * K)
    a[:2, 0] = torch.tensor([1e4, -1e4])
    g = kda_gate(a, A_log, dt_bias, lower_bound=-5.0)
    for h in range(H):
        for j in range(K):
            z = (a[:, h * K + j] + dt_bias[h * K + j]).double()
            assert_near(g[:, h, j], -5 / (1 + torch.exp(-A_log[h].double().exp() * z)), 1e-6)
    assert g[0, 0, 0] == -5 and g[1, 0, 0] == 0
