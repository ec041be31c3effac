import torch
import torch.nn.functional as F

from kernels import gated_rms_norm, l2_norm, rms_norm
from tests.kernels.cases import assert_near


def test_rms_norm_is_torchs():
    x, weight = torch.randn(5, 16).double(), torch.randn(16).double()
    assert_near(rms_norm(x, weight, 1e-5), F.rms_norm(x, (16,), weight, 1e-5), 1e-14)


def test_rms_norm_of_bf16_takes_its_statistics_in_fp32():
    x, weight = torch.randn(5, 512).bfloat16(), torch.ones(512).bfloat16()
    expected = F.rms_norm(x.double(), (512,), None, 1e-5).bfloat16()
    assert (rms_norm(x, weight, 1e-5) == expected).float().mean() > 0.99


def test_gated_norm_is_per_head_with_a_sigmoid_gate():
    o, gate, weight = torch.randn(5, 3, 8).double(), torch.randn(5, 3, 8).double(), torch.randn(8).double()
    for h in range(3):
        expected = F.rms_norm(o[:, h], (8,), weight, 1e-5) * torch.sigmoid(gate[:, h])
        assert_near(gated_rms_norm(o, gate, weight, 1e-5)[:, h], expected, 1e-14)


def test_l2_norm_has_its_eps_inside_the_root():
    x = torch.full((1, 4), 1e-3, dtype=torch.float64)
    assert_near(l2_norm(x), x / (4e-6 + 1e-6) ** 0.5, 1e-14)
