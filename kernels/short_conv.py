"""Causal depthwise convolution with SiLU, in front of KDA's q, k and v (model-spec §2.2, 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.norm import wide
from kernels.pointwise import silu


def short_conv_reference(x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``y[t,c] = SiLU( Σ_j w[c,j] · x[t-W+1+j, c] )``, token by token; ``w[:, W-1]`` multiplies the current token.

    x [T,C] raw projections; weight [C,W]; state [W-1,C] the last W-1 raw inputs before x, oldest first, zeros at the
    start of a sequence -> (y [T,C], the new state [W-1,C]).
    """
    window, rows = state.clone(), []
    for token in x:
        window = torch.cat([window, token[None]])
        rows.append(F.silu((window * weight.T).sum(0)))
        window = window[1:]
    return torch.stack(rows), window


def short_conv(x: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same, W shifted multiply-adds over all tokens at once; accumulated in fp32."""
    width, tokens = weight.shape[1], x.shape[0]
    history = torch.cat([state, x])
    wide_history, w = wide(history), wide(weight)
    y = wide_history[:tokens] * w[:, 0]
    for tap in range(1, width):
        y.addcmul_(wide_history[tap : tap + tokens], w[:, tap])
    return silu(y).to(x.dtype), history[tokens:]
