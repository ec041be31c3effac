"""On a CUDA device: the forms of PyTorch's operations against their definitions in fp64, at the widths of the 48B."""

import pytest
import torch
import torch.nn.functional as F

import kernels
from tests.kernels.cases import KdaCase

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

H, K, HIDDEN, BF16 = 32, 128, 2304, torch.bfloat16


@pytest.fixture(autouse=True)
def on_the_gpu():
    with torch.device("cuda"):
        yield


def near(found, expected, tolerance):
    """Relative Frobenius error: what rounding to 16 bits leaves, free of single outliers."""
    assert found.isfinite().all()
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    print(f"  error {error:.2e} of {tolerance:.0e}", end="")
    assert error <= tolerance


def wider(*tensors):
    return [x.double() if x.is_floating_point() else x for x in tensors]


@pytest.mark.parametrize("tokens, decay", [(2, 0.5), (333, 0.5), (333, 200.0)])
def test_kda_in_chunks(tokens, decay):
    with torch.device("cpu"):
        rows = KdaCase(tokens, decay, heads=H, key=K, value=K, dtype=torch.float32).make()
    rows = [x.cuda() for x in rows]
    o, final = kernels.kda_chunk(*rows)
    o_expected, final_expected = kernels.kda_recurrence(*wider(*rows))
    near(o, o_expected, 1e-4)
    near(final, final_expected, 1e-4)


@pytest.mark.parametrize("tokens, length", [(1, 1), (1, 5000), (32, 40), (64, 9000), (65, 65), (300, 41_000)])
def test_mla(tokens, length):
    q, kv_b = torch.randn(tokens, H, 192, dtype=BF16), torch.randn(H, 256, 512, dtype=BF16) * 512**-0.5
    latents, count = torch.randn(length, 576, dtype=BF16), -(-length // 256)
    table, pages = torch.randperm(count + 3)[:count], torch.full((count + 3, 256, 576), float("nan"), dtype=BF16)
    at = torch.arange(length)
    pages[table[at // 256], at % 256] = latents
    found = kernels.mla_absorbed(q, pages, table, length, kv_b, 128)
    some = torch.tensor(sorted({0, tokens // 3, tokens - 1}))  # of the rows; the definition takes memory
    for row in some.tolist():
        stop = length - tokens + row + 1
        near(found[row : row + 1], kernels.mla_expanded(*wider(q[row : row + 1], latents[:stop], kv_b), 128), 1e-2)


@pytest.mark.parametrize("tokens", [1, 2, 77, 1000])
def test_experts(tokens):
    x, indices = torch.randn(tokens, HIDDEN, dtype=BF16), torch.rand(tokens, 256).topk(8).indices
    w1, w3 = (torch.randn(256, 1024, HIDDEN, dtype=BF16) * HIDDEN**-0.5 for _ in range(2))
    w2, weights = torch.randn(256, HIDDEN, 1024, dtype=BF16) * 1024**-0.5, torch.rand(tokens, 8)
    few = slice(0, 40)
    expected = kernels.moe_reference(*(y.float() if y.is_floating_point() else y for y in
                                       (x[few], indices[few], weights[few], w1, w3, w2)))  # fmt: skip
    near(kernels.moe(x, indices, weights, w1, w3, w2)[few], expected, 1e-2)


def test_norms_and_gates():
    x, weight = torch.randn(100, HIDDEN, dtype=BF16) * 3, torch.randn(HIDDEN, dtype=BF16)
    near(kernels.rms_norm(x, weight, 1e-5), F.rms_norm(x.double(), (HIDDEN,), weight.double(), 1e-5), 3e-3)
    o, gate, w = torch.randn(100, H, K), torch.randn(100, H, K, dtype=BF16), torch.randn(K, dtype=BF16)
    expected = F.rms_norm(o.double(), (K,), w.double(), 1e-5) * torch.sigmoid(gate.double())
    near(kernels.gated_rms_norm(o, gate, w, 1e-5), expected, 3e-3)
    qk = torch.randn(100, 3 * H * K, dtype=BF16)[:, : 2 * H * K].view(-1, 2, H, K)
    near(kernels.l2_norm(qk), F.normalize(qk.double(), dim=-1), 1e-5)
    a, A_log, bias = torch.randn(100, H * K, dtype=BF16) * 20, torch.rand(H) * 2.7, torch.randn(H * K)
    z = (a.double() + bias.double()).view(100, H, K)
    expected = -A_log.double().exp()[:, None] * torch.logaddexp(z, torch.zeros_like(z))
    near(kernels.kda_gate(a, A_log, bias), expected, 1e-6)
    near(kernels.kda_gate(a, A_log, bias, -5.0), -5 * torch.sigmoid(z * A_log.double().exp()[:, None]), 1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 3, 64, 333])
def test_short_conv(tokens):
    x = torch.randn(tokens, 3 * H * K + 300, dtype=BF16)[:, : 3 * H * K]  # rows are part of wider ones
    weight, before = torch.randn(3 * H * K, 4, dtype=BF16).T.contiguous().T, torch.randn(3, 3 * H * K, dtype=BF16)
    y, after = kernels.short_conv(x, weight, before)
    y_expected, after_expected = kernels.short_conv_reference(*wider(x, weight, before))
    near(y, y_expected, 3e-3)
    assert torch.equal(after.double(), after_expected)
