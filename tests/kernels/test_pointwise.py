import pytest
import torch
import torch.nn.functional as F

from kernels import sigmoid, silu, softplus
from tests.kernels.cases import assert_near

PAIRS = [(sigmoid, torch.sigmoid), (silu, F.silu), (softplus, F.softplus)]
X = torch.cat([torch.linspace(-200, 200, 1001), torch.randn(1001)])


@pytest.mark.parametrize("ours, torchs", PAIRS)
def test_it_is_torchs_function(ours, torchs):
    assert_near(ours(X.double()), torchs(X.double()), 1e-8)  # torch's softplus is the identity from 20 on
    assert_near(ours(X), torchs(X.double()), 1e-6)


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS])
@pytest.mark.parametrize("count", [1, 3, 15, 17, 33])
def test_a_value_does_not_depend_on_its_place(ours, count):
    """Whatever the number of threads: a share may start and end anywhere."""
    whole = ours(X)
    for start in range(0, len(X) - count, 7):
        assert torch.equal(ours(X[start : start + count]), whole[start : start + count])
