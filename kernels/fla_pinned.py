"""flash-linear-attention's Triton kernels, each with one configuration.

Left alone they choose by trial runs, so that two processes may add in different orders and a reading would not be the
same bits in both. The configurations are those that won on an H200, or come within a few per cent of it.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

CONFIGURATIONS: dict[str, tuple[dict[str, int], int]] = {  # module:kernel -> (tile, warps), three stages each
    "fla.ops.utils.cumsum:chunk_local_cumsum_vector_kernel": ({"BS": 32}, 8),
    "fla.ops.kda.chunk_intra_token_parallel:chunk_kda_fwd_kernel_intra_token_parallel": ({"BH": 2}, 1),
    "fla.ops.kda.chunk_intra:chunk_kda_fwd_kernel_inter_solve_fused": ({"BK": 32}, 1),
    "fla.ops.kda.wy_fast:recompute_w_u_fwd_kda_kernel": ({}, 4),
    "fla.ops.common.chunk_delta_h:chunk_gated_delta_rule_fwd_kernel_h_blockdim64": ({"BV": 32}, 4),
    "fla.ops.gla.chunk:chunk_gla_fwd_kernel_o": ({"BK": 64, "BV": 128}, 4),
    "fla.modules.causal_conv1d.ops:causal_conv1d_fwd_kernel": ({"BD": 64}, 4),
}


@cache
def operation(module: str, name: str) -> Callable[..., Any]:
    """An operation of the package, all kernels pinned. Imported late: the package needs triton and a GPU."""
    from triton import Config

    for place, (tile, warps) in CONFIGURATIONS.items():
        where, kernel = place.split(":")
        getattr(import_module(where), kernel).fn.configs = [Config(tile, num_warps=warps, num_stages=3)]
    return getattr(import_module(module), name)
