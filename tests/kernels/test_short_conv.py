import pytest
import torch
import torch.nn.functional as F

from kernels import short_conv, short_conv_reference
from tests.kernels.cases import assert_near

CHANNELS, WIDTH = 6, 4


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 64])
def test_fast_path_gives_what_the_definition_gives(tokens):
    x, weight = torch.randn(tokens, CHANNELS).double(), torch.randn(CHANNELS, WIDTH).double()
    state = torch.randn(WIDTH - 1, CHANNELS).double()
    for found, expected in zip(short_conv(x, weight, state), short_conv_reference(x, weight, state), strict=True):
        assert_near(found, expected, 1e-14)


def test_it_is_a_causal_cross_correlation():
    """torch's own depthwise conv1d over the inputs with W-1 zeros in front."""
    x, weight = torch.randn(9, CHANNELS).double(), torch.randn(CHANNELS, WIDTH).double()
    padded = F.pad(x.T[None], (WIDTH - 1, 0))
    expected = F.silu(F.conv1d(padded, weight[:, None], groups=CHANNELS))[0].T
    y, state = short_conv(x, weight, torch.zeros(WIDTH - 1, CHANNELS).double())
    assert_near(y, expected, 1e-14)
    assert torch.equal(state, x[-3:])


@pytest.mark.parametrize("cut", [1, 2, 3, 20])
def test_any_cut_changes_no_bit(cut):
    x, weight, state = torch.randn(30, CHANNELS), torch.randn(CHANNELS, WIDTH), torch.randn(WIDTH - 1, CHANNELS)
    y, final = short_conv(x, weight, state)
    first, middle = short_conv(x[:cut], weight, state)
    second, end = short_conv(x[cut:], weight, middle)
    assert torch.equal(torch.cat([first, second]), y) and torch.equal(end, final)
