"""One token of Kimi Delta Attention in one launch: from the projections to the gated norm, on states in a pool.

A program owns a head of a row: its state, 64 KiB of fp32 at K = V = 128, is held in registers from the read to the
write, so that every byte of it moves once each way, and the norm over the head's values needs no other program.
Everything is asked for at the start; convolution, norms and gate are computed while the state is on its way.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.gpu.early import call, early, launch
from kernels.gpu.gate import log2_decay

WARPS = 4  # a channel a thread where K = 128: more threads would repeat each other; sums over K depend on it
# Up to so many programs start while the launch before still runs and call their states to L2 (from 9.0 up):
# 5.2 us instead of 6.1 for one row of the 48B; with 64 rows that costs 6 %.
EARLY = 512
L2_EPS = 1e-6  # inside the root; not the model's eps (model-spec §2.2, 3)


def kda_decode(
    raw: Tensor,
    conv_weight: Tensor,
    conv_pool: Tensor,
    a: Tensor,
    b: Tensor,
    z: Tensor,
    A_log: Tensor,
    dt_bias: Tensor,
    o_norm: Tensor,
    eps: float,
    pool: Tensor,
    slots: Tensor,
    lower_bound: float | None = None,
) -> Tensor:
    """``rms_norm(o) ⊙ o_norm ⊙ sigmoid(z)`` of one new token a row -> y [B,H·V] in raw's dtype (model-spec §2.2).

    raw [B,C] what the projections of q, k and v gave, C = H·(2K + V); conv_weight [C,W], 2 ≤ W ≤ 4; conv_pool
    [slots,W-1,C] the inputs before it, oldest first; a [B,H·K] gate logits; b [B,H] write logits; z [B,H·V] the output
    gate's logits; A_log [H] and dt_bias [H·K] fp32; o_norm [V]; pool [slots,H,K,V] fp32. Row i uses slot slots[i]
    (int32, distinct) of both pools and leaves the new history and state there. A negative slot is an idle row: its y is
    zero. K and V are powers of two; the first dimension of any of them may be strided. lower_bound: a bounded gate.
    """
    y = torch.empty(raw.shape[0], z.shape[1], dtype=raw.dtype, device=raw.device)
    _, heads, key, value = pool.shape
    width, items = conv_weight.shape[1], raw.shape[0] * heads
    overlap = items <= EARLY and early(raw.device)
    _decode[(items,)](
        raw, conv_weight, conv_pool, a, b, z, A_log, dt_bias, o_norm, pool, slots, y,
        raw.stride(0), conv_pool.stride(0), a.stride(0), b.stride(0), z.stride(0), pool.stride(0), pool.shape[0], eps,
        H=heads, K=key, V=value, W=width, L2_EPS=L2_EPS, LOWER=lower_bound, EARLY=overlap, num_warps=WARPS,
        **launch(overlap),
    )  # fmt: skip
    return y


@triton.jit(do_not_specialize=["pool_slots"])
def _decode(
    raw, conv_weight, conv_pool, a, b, z, A_log, dt_bias, o_norm, pool, slots, y,
    raw_row, conv_slot, a_row, b_row, z_row, pool_slot, pool_slots, eps,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, L2_EPS: tl.constexpr,
    LOWER: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = H * (2 * K + V)
    keys, values = tl.arange(0, K), tl.arange(0, V)
    item = tl.program_id(0)
    row, head = item // H, item % H
    of_q, of_k, of_v = head * K + keys, H * K + head * K + keys, 2 * H * K + head * V + values
    of_o = head * V + values
    if EARLY:
        gdc_launch_dependents()
    q_weights = _weights(conv_weight, of_q, W)
    k_weights = _weights(conv_weight, of_k, W)
    v_weights = _weights(conv_weight, of_v, W)
    bias, norm, pace = tl.load(dt_bias + of_q), tl.load(o_norm + values).to(tl.float32), tl.load(A_log + head)
    if EARLY:
        # the launch before may still be writing the slot: it serves for the call alone, and is not kept in L1
        stale = _within(tl.load(slots + row, cache_modifier=".cg"), pool_slots)
        call(pool + stale * pool_slot + head * (K * V) + tl.arange(0, K * V // 32) * 32)
        for old in tl.static_range(W - 1):
            call(conv_pool + stale * conv_slot + old * C + of_q)
            call(conv_pool + stale * conv_slot + old * C + of_k)
            call(conv_pool + stale * conv_slot + old * C + of_v)
        gdc_wait()
    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    cells = pool + slot * pool_slot + head * (K * V) + keys[:, None] * V + values[None, :]
    state = tl.load(cells, mask=live & (values >= 0)[None, :], other=0.0)
    # Holds the compiler to this order: to save registers it would ask for the state when the convolution is computed.
    tl.debug_barrier()
    inputs, history = raw + row * raw_row, conv_pool + slot * conv_slot
    q_window = _window(inputs, history, of_q, live, C, W)
    k_window = _window(inputs, history, of_k, live, C, W)
    v_window = _window(inputs, history, of_v, live, C, W)
    logit, gate = tl.load(a + row * a_row + of_q).to(tl.float32), tl.load(z + row * z_row + of_o).to(tl.float32)
    write = tl.load(b + row * b_row + head).to(tl.float32)

    q, k, v = _filtered(q_window, q_weights), _filtered(k_window, k_weights), _filtered(v_window, v_weights)
    qq, kk, kq = tl.reduce((q * q, k * k, k * q), 0, _sums_of_3)
    q_scale, k_scale = tl.rsqrt(qq + L2_EPS) * K**-0.5, tl.rsqrt(kk + L2_EPS)
    q, k, kq = q * q_scale, k * k_scale, kq * q_scale * k_scale
    # the interpreter takes a bound times a tensor for a constant, until it is added to one
    decay = tl.exp2(tl.zeros([K], tl.float32) + log2_decay(logit + bias, tl.exp(pace), LOWER))
    scale = tl.sigmoid(gate) * norm
    tl.debug_barrier()  # a history's cell may have been read by another thread than the one that now writes it
    _shift(history, of_q, q_window, live, C, W)
    _shift(history, of_k, k_window, live, C, W)
    _shift(history, of_v, v_window, live, C, W)

    # both reads are of the state before the write, which adds (k·q) error to the second: neither waits for it
    read_k, read_q = tl.reduce((state * (decay * k)[:, None], state * (decay * q)[:, None]), 0, _sums_of_2)
    error = tl.sigmoid(write) * (v - read_k)
    state = state * decay[:, None] + k[:, None] * error[None, :]
    tl.store(cells, state, mask=live & (values >= 0)[None, :])
    o = read_q + kq * error
    o *= tl.rsqrt(tl.sum(o * o, 0) / V + eps) * scale
    tl.store(y + row * (H * V) + of_o, tl.where(live, o, 0.0).to(y.dtype.element_ty))


@triton.jit
def _window(inputs, history, channels, live, C: tl.constexpr, W: tl.constexpr):
    """The last four raw inputs of some channels, newest first; those older than the filter's W are zeros."""
    x0 = tl.load(inputs + channels, mask=live, other=0.0)
    x1 = tl.load(history + (W - 2) * C + channels, mask=live, other=0.0)
    x2 = tl.load(history + (W - 3) * C + channels, mask=live & (W > 2), other=0.0)
    x3 = tl.load(history + (W - 4) * C + channels, mask=live & (W > 3), other=0.0)
    return x0, x1, x2, x3


@triton.jit
def _weights(weight, channels, W: tl.constexpr):
    """Of the same four inputs."""
    last, there = weight + channels * W + W - 1, channels >= 0
    w0, w1 = tl.load(last), tl.load(last - 1)
    w2 = tl.load(last - 2, mask=there & (W > 2), other=0.0)
    w3 = tl.load(last - 3, mask=there & (W > 3), other=0.0)
    return w0, w1, w2, w3


@triton.jit
def _filtered(window, weights):
    """SiLU of the window's product with the weights."""
    x = window[3].to(tl.float32) * weights[3].to(tl.float32)
    x += window[2].to(tl.float32) * weights[2].to(tl.float32)
    x += window[1].to(tl.float32) * weights[1].to(tl.float32)
    x += window[0].to(tl.float32) * weights[0].to(tl.float32)
    return x * tl.sigmoid(x)


@triton.jit
def _shift(history, channels, window, live, C: tl.constexpr, W: tl.constexpr):
    """All but the oldest of the window are the next token's history."""
    tl.store(history + (W - 2) * C + channels, window[0], mask=live)
    tl.store(history + (W - 3) * C + channels, window[1], mask=live & (W > 2))
    tl.store(history + (W - 4) * C + channels, window[2], mask=live & (W > 3))


@triton.jit
def _sums_of_2(a, b, c, d):
    return a + c, b + d


@triton.jit
def _sums_of_3(a, b, c, d, e, f):
    return a + d, b + e, c + f


@triton.jit
def _within(slot, slots):
    return tl.minimum(tl.maximum(slot.to(tl.int64), 0), slots - 1)
