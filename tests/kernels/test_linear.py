import pytest
import torch

from kernels import Weight
from tests.kernels.cases import assert_near


@pytest.mark.parametrize("rows", [1, 37, 64, 130])
def test_it_is_a_matrix_product(rows):
    x, plain = torch.randn(rows, 40), torch.randn(24, 40)
    assert_near(Weight.of(plain)(x), x.double() @ plain.double().T, 1e-6)


def test_rows_may_be_part_of_wider_ones():
    x, plain = torch.randn(64, 90), torch.randn(24, 40)
    weight = Weight.of(plain)
    assert torch.equal(weight(x[:, 7:47]), weight(x[:, 7:47].clone()))


def test_only_fp32_on_the_cpu_is_packed():
    assert Weight.of(torch.randn(8, 8).bfloat16()).packed is None
    assert (Weight.of(torch.randn(8, 8)).packed is not None) == torch.backends.mkldnn.is_available()
