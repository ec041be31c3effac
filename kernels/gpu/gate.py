"""KDA's gate, in every kernel that needs it: a channel's log2 decay of a token, ≤ 0."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def log2_decay(z, rate, LOWER: tl.constexpr):
    """In bits, from z = logit + bias (fp32) and rate = e^A_log: −rate·softplus(z), or with a bound (−5, say)
    LOWER·σ(rate·z): a scaled sigmoid, no clamp (model-spec §2.2, §7.1). LOWER None: no bound."""
    if LOWER is None:
        return -rate * softplus2(z)
    else:  # Triton compiles what follows a return
        return (LOWER * LOG2E) * tl.sigmoid(rate * z)


@triton.jit
def softplus2(z):
    """log2(1 + e^z), relative error 3e-7 for small ones too. (tl.log2 takes 25 steps, log1p needs a division more.)"""
    y = z * LOG2E
    t = tl.exp2(tl.abs(y) * -1.0)  # a sign is free, a difference from 0 is not
    p = 0.06378752545599763 - t * 0.012370624020021448  # log2(1 + t) / t on [0, 1]
    p = p * t - 0.15559986223189798
    p = p * t + 0.25617962368784614
    p = p * t - 0.35345465030849255
    p = p * t + 0.48007374224813193
    p = p * t - 0.7213107222027899
    p = p * t + 1.442694767073965
    return tl.maximum(y, 0.0) + t * p
