"""One token of Kimi Delta Attention in one launch: from the projections to the gated norm, on states in a pool.

A program owns a head of a row: its state, 64 KiB of fp32 at K = V = 128, is held in registers from the read to the
write, so that every byte of it moves once each way, and the norm over the head's values needs no other program. The
state is asked for first; convolution, norms and gate are computed while it is on its way.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

WARPS = 8  # the order of the sums over K depends on it: one number for all batches
REGISTERS = 128  # at most so many a thread: two programs on a multiprocessor
AHEAD = 0  # a program calls the state that the program so many places behind it will read to the L2 cache
EARLY = False  # start while the launch before still runs and call the own state to the L2 cache: compute capability 9.0
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
) -> Tensor:
    """``rms_norm(o) ⊙ o_norm ⊙ sigmoid(z)`` of one new token a row -> y [B,H·V] in raw's dtype (model-spec §2.2).

    raw [B,C] what the projections of q, k and v gave, C = H·(2K + V); conv_weight [C,W]; conv_pool [slots,W-1,C] the
    inputs before it, oldest first; a [B,H·K] gate logits; b [B,H] write logits; z [B,H·V] output gate's logits;
    A_log [H] and dt_bias [H·K] fp32; o_norm [V]; pool [slots,H,K,V] fp32. Row i uses slot slots[i] (int32, distinct) of
    both pools and leaves the new history and state there. A negative slot is an idle row: its y is zero. K and V are
    powers of two; the first dimension of any of them may be strided.
    """
    y = torch.empty(raw.shape[0], z.shape[1], dtype=raw.dtype, device=raw.device)
    _, heads, key, value = pool.shape
    width, items, early = conv_weight.shape[1], raw.shape[0] * heads, _early(raw.device)
    _decode[(items,)](
        raw, conv_weight, conv_pool, a, b, z, A_log, dt_bias, o_norm, pool, slots, y,
        raw.stride(0), conv_pool.stride(0), a.stride(0), b.stride(0), z.stride(0), pool.stride(0), pool.shape[0], eps,
        H=heads, K=key, V=value, W=width, TAPS=triton.next_power_of_2(width), L2_EPS=L2_EPS,
        AHEAD=AHEAD if raw.is_cuda else 0, EARLY=early, num_warps=WARPS,
        **({"maxnreg": REGISTERS, "launch_pdl": early} if raw.is_cuda else {}),
    )  # fmt: skip
    return y


def _early(device: torch.device) -> bool:
    return EARLY and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


@triton.jit
def _decode(
    raw, conv_weight, conv_pool, a, b, z, A_log, dt_bias, o_norm, pool, slots, y,
    raw_row, conv_slot, a_row, b_row, z_row, pool_slot, pool_slots, eps,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, TAPS: tl.constexpr, L2_EPS: tl.constexpr,
    AHEAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = H * (2 * K + V)
    keys, values, taps = tl.arange(0, K), tl.arange(0, V), tl.arange(0, TAPS)
    item = tl.program_id(0)
    row, head = item // H, item % H
    if EARLY:
        gdc_launch_dependents()
        _call(item, pool, slots, pool_slot, pool_slots, H, K * V)
        gdc_wait()
    slot = tl.load(slots + row).to(tl.int64)
    live = slot >= 0
    inputs, history = raw + row * raw_row, conv_pool + slot * conv_slot
    of_q, of_k, of_v = head * K + keys, H * K + head * K + keys, 2 * H * K + head * V + values
    q_window = _window(inputs, history, of_q, taps, live, C, W)
    k_window = _window(inputs, history, of_k, taps, live, C, W)
    v_window = _window(inputs, history, of_v, taps, live, C, W)
    q_weight = _weight(conv_weight, of_q, taps, W)
    k_weight = _weight(conv_weight, of_k, taps, W)
    v_weight = _weight(conv_weight, of_v, taps, W)
    logit = _column(a + row * a_row + of_q, taps) + _column(dt_bias + of_q, taps)
    gate = _column(z + row * z_row + head * V + values, taps)
    norm = _column(o_norm + values, taps)
    pace, write = tl.load(A_log + head), tl.load(b + row * b_row + head).to(tl.float32)
    cells = pool + slot * pool_slot + head * (K * V) + keys[:, None] * V + values[None, :]
    state = tl.load(cells, mask=live & (values >= 0)[None, :], other=0.0)

    if AHEAD > 0 and item + AHEAD < tl.num_programs(0):
        _call(item + AHEAD, pool, slots, pool_slot, pool_slots, H, K * V)
    q = _filtered(q_window, q_weight)
    k = _filtered(k_window, k_weight)
    v = _filtered(v_window, v_weight)
    tl.debug_barrier()  # a history's cell may have been read by another thread than the one that now writes it
    _shift(history, of_q, taps, q_window, live, C, W)
    _shift(history, of_k, taps, k_window, live, C, W)
    _shift(history, of_v, taps, v_window, live, C, W)
    q *= tl.rsqrt(tl.sum(q * q, 0) + L2_EPS) * K**-0.5
    k *= tl.rsqrt(tl.sum(k * k, 0) + L2_EPS)
    kq = tl.sum(k * q, 0)
    decay = tl.exp(-tl.exp(pace) * _softplus(tl.sum(logit, 1)))
    scale = tl.sigmoid(tl.sum(gate, 1)) * tl.sum(norm, 1)

    # both reads are of the state before the write, which adds (k·q) error to the second: neither waits for it
    read_k, read_q = tl.sum(state * (decay * k)[:, None], 0), tl.sum(state * (decay * q)[:, None], 0)
    error = tl.sigmoid(write) * (v - read_k)
    state = state * decay[:, None] + k[:, None] * error[None, :]
    tl.store(cells, state, mask=live & (values >= 0)[None, :])
    o = read_q + kq * error
    o *= tl.rsqrt(tl.sum(o * o, 0) / V + eps) * scale
    tl.store(y + row * (H * V) + head * V + values, tl.where(live, o, 0.0).to(y.dtype.element_ty))


@triton.jit
def _window(inputs, history, channels, taps, live, C: tl.constexpr, W: tl.constexpr):
    """The last W raw inputs of some channels [n,TAPS], oldest first."""
    newest, earlier = (taps == W - 1)[None, :] & live, (taps < W - 1)[None, :] & live
    there = taps[None, :] * C + channels[:, None]
    window = tl.load(history + there, mask=earlier, other=0.0)
    here = tl.broadcast_to(channels[:, None], window.shape)
    return tl.where(newest, tl.load(inputs + here, mask=newest, other=0.0), window)


@triton.jit
def _column(vector, taps):
    """A vector as the first column of a tile [n,TAPS], to be summed along the rows.

    A vector shorter than the program's threads would be loaded, and all that follows be computed, once by every thread
    that needs a value, in the tile's layout sixteen times over.
    """
    there = tl.broadcast_to(vector[:, None], (vector.shape[0], taps.shape[0]))
    return tl.load(there, mask=(taps == 0)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _weight(weight, channels, taps, W: tl.constexpr):
    return tl.load(weight + channels[:, None] * W + taps[None, :], mask=(taps < W)[None, :], other=0.0)


@triton.jit
def _filtered(window, weight):
    """SiLU of the window's product with the weight [n]."""
    x = tl.sum(window.to(tl.float32) * weight.to(tl.float32), 1)
    return x * tl.sigmoid(x)


@triton.jit
def _shift(history, channels, taps, window, live, C: tl.constexpr, W: tl.constexpr):
    """All but the oldest of the window are the next token's history."""
    kept = (taps >= 1)[None, :] & (taps < W)[None, :] & live
    tl.store(history + (taps[None, :] - 1) * C + channels[:, None], window, mask=kept)


@triton.jit
def _softplus(x):
    """``log(1 + e^x)``; log1p by Kahan's quotient, since a slow channel's rate is a thousandth."""
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    rest = u - 1.0
    return tl.maximum(x, 0.0) + tl.where(rest == 0.0, e, tl.log(u) * (e / tl.where(rest == 0.0, 1.0, rest)))


@triton.jit
def _call(item, pool, slots, pool_slot, pool_slots, H: tl.constexpr, CELLS: tl.constexpr):
    """Asks the L2 cache for the state of a head of a row. The slot may be stale here, so it is only held to be one."""
    slot = tl.load(slots + item // H, cache_modifier=".cg").to(tl.int64)
    slot = tl.minimum(tl.maximum(slot, 0), pool_slots - 1)
    lines = pool + slot * pool_slot + (item % H) * CELLS + tl.arange(0, CELLS // 32) * 32
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
    )
