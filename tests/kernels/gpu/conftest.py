"""These tests run on a GPU where there is one, else in Triton's interpreter on the CPU, at smaller sizes.

The interpreter computes bf16 products of matrices in numpy, which has no such type: here they are taken in fp32.
"""

import os

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of a kernel

import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import InterpreterBuilder  # noqa: E402


def _products_in_fp32() -> None:
    plain = InterpreterBuilder.create_dot

    def widened(self, a, b, d, *rest, **named):
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return plain(self, a, b, d, *rest, **named)

    InterpreterBuilder.create_dot = widened


if not ON_GPU:
    _products_in_fp32()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if ON_GPU else "cpu")
