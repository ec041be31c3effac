"""Sigmoid, SiLU and softplus whose result depends on the value alone.

torch's own CPU kernels compute the last few elements of a thread's share in another way than the others, so a result
changes with the number of threads. exp, log1p and the arithmetic do not, and these three are built from them. On a GPU
torch's own are one pass, in fp32 inside.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid(x: Tensor) -> Tensor:
    if x.is_cuda:
        return torch.sigmoid(x)
    return x.neg().exp_().add_(1).reciprocal_()


def silu(x: Tensor) -> Tensor:
    if x.is_cuda:
        return F.silu(x)
    return sigmoid(x).mul_(x)


def softplus(x: Tensor) -> Tensor:
    """``log(1 + e^x)``, without overflow."""
    if x.is_cuda:
        return F.softplus(x)
    return x.abs().neg_().exp_().log1p_().add_(x.clamp(min=0))
