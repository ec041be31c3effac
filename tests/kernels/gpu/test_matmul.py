"""Products with one order of summation: right, and the same bits for a row in any company."""

import pytest
import torch

from kernels.gpu.matmul import MANY, matmul
from tests.kernels.gpu.conftest import ON_GPU

SIZES = [(1, 16, 16), (3, 40, 70), (65, 130, 64), (130, 48, 200)]
FULL = [(1, 12_576, 2304), (64, 2304, 4096), (777, 6720, 2304), (8192, 4096, 128), (2000, 2304, 9216)]
SHAPES = SIZES + [pytest.param(*size, marks=pytest.mark.skipif(not ON_GPU, reason="needs a GPU")) for size in FULL]


@pytest.mark.parametrize("rows, columns, width", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_products(rows, columns, width, dtype, tolerance, device):
    """Rows are part of wider ones, and behind the last lies no number."""
    wide = torch.full((rows, width + 16), float("nan"), dtype=dtype, device=device)
    wide[:, :width] = torch.randn(rows, width, device=device)
    weight = (torch.randn(columns, width, device=device) * width**-0.5).to(dtype)
    found = matmul(wide[:, :width], weight).double()
    expected = wide[:, :width].double() @ weight.double().T
    assert float((found - expected).norm() / expected.norm()) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_in_any_company(dtype, device):
    rows, columns, width = (3 * MANY, 4096, 2304) if ON_GPU else (150, 130, 96)
    x = torch.randn(rows, width, device=device).to(dtype)
    weight = (torch.randn(columns, width, device=device) * width**-0.5).to(dtype)
    whole = matmul(x, weight)
    for first, stop in ((0, 1), (7, 9), (3, 70), (64, 128), (rows // 3, rows)):
        assert torch.equal(matmul(x[first:stop], weight), whole[first:stop])
