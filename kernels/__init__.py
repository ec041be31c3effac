"""The operations of Kimi Linear: tensors in, tensors out. Each file holds one operation, its definition first.

Rows are tokens. The definitions (``*_reference``, ``kda_recurrence``, ``mla_expanded``) are plain PyTorch, run in any
floating dtype and are the oracles of the tests; the function beside a definition is the fast path with the same result.
"""

from kernels.kda import kda_chunk, kda_gate, kda_recurrence, kda_step
from kernels.linear import Weight, linear
from kernels.mla import mla_absorbed, mla_expanded
from kernels.moe import moe, moe_reference, route, weigh_experts
from kernels.norm import gated_rms_norm, l2_norm, rms_norm
from kernels.pointwise import sigmoid, silu, softplus
from kernels.short_conv import short_conv, short_conv_reference

REVISION = "4"  # changes whenever a result may change by a bit; part of every reading's fingerprint

__all__ = [
    "REVISION",
    "Weight",
    "gated_rms_norm",
    "kda_chunk",
    "kda_gate",
    "kda_recurrence",
    "kda_step",
    "l2_norm",
    "linear",
    "mla_absorbed",
    "mla_expanded",
    "moe",
    "moe_reference",
    "rms_norm",
    "route",
    "short_conv",
    "short_conv_reference",
    "sigmoid",
    "silu",
    "softplus",
    "weigh_experts",
]
