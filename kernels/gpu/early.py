"""Launches of a decode step that overlap, from compute capability 9.0 up (programmatic dependent launch).

A program says at once that the next launch may start (``gdc_launch_dependents``); when all of a grid's have, it does,
where there is room, several launches deep. It then asks for its weights, so that the memory does not rest at a launch's
border, and waits (``gdc_wait``) until the launches before it have ended and what they wrote is seen.

The rule. Every program waits, whatever else it does; so a launch that has ended has all before it ended too. Before it
waits it touches nothing that a step writes: it reads none of it (not written yet), and writes nothing at all (the
allocator gives memory again within a step, and a launch before it may still be reading there). Weights alone are asked
for; a state may be called to the L2 cache, which holds no second copy of it. One exception: a kernel that tells the
next launch only after its own wait lets that one read, past L1 (".cg"), what was written before this kernel.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

OVERLAP = True  # False: one launch after the other


def early(device: torch.device) -> bool:
    return OVERLAP and device.type == "cuda" and _capability(device) >= 9


@cache
def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def launch(early: bool) -> dict[str, Any]:
    """Options of a launch; the interpreter knows none such."""
    return {"launch_pdl": True} if early else {}


@triton.jit
def follow(EARLY: tl.constexpr):
    """For kernels that have no weights to ask for."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def call(places):
    """Has the lines that hold some places brought into the L2 cache, and waits for none of them."""
    asm: tl.constexpr = "prefetch.global.L2 [$1]; mov.u32 $0, 0;"
    tl.inline_asm_elementwise(asm, "=r,l", [places.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1)
