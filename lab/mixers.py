"""The two operations that look back along a sequence: on a GPU our kernel and flash attention, else PyTorch's."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.kda_cpu import remember_in_chunks


def remember(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, a_log: Tensor, dt_bias: Tensor, row
) -> Tensor:
    """Kimi delta attention over every sequence of the row; q, k, v, decay [N, H, D], logits of β [N, H]."""
    if not q.is_cuda:
        return remember_in_chunks(q, k, v, decay, beta, a_log, dt_bias, row)
    from kernels.gpu.kda_training import kda

    return kda(q, k, v, decay, beta, a_log, dt_bias, row.packing)[0]


def remember_by_definition(q, k, v, decay, beta, a_log, dt_bias, row) -> Tensor:
    """Token by token, fp32: decay, write the error, read."""

    def unit(x):
        return x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)

    g = -a_log.exp()[:, None] * F.softplus(decay.float() + dt_bias.view(decay.shape[1:]))
    q, k, v, beta = unit(q) * q.shape[-1] ** -0.5, unit(k), v.float(), beta.float().sigmoid()
    outputs = []
    for t in range(len(q)):
        if t == 0 or row.place[t] == 0:
            state = q.new_zeros(q.shape[1], q.shape[2], v.shape[2], dtype=torch.float32)
        state = state * g[t].exp()[..., None]
        error = beta[t][:, None] * (v[t] - torch.einsum("hk,hkv->hv", k[t], state))
        state = state + k[t][..., None] * error[:, None]
        outputs.append(torch.einsum("hk,hkv->hv", q[t], state))
    return torch.stack(outputs).to(decay.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, row) -> Tensor:
    """Causal softmax attention within every sequence of the row; q, k, v [N, H, D]."""
    if not q.is_cuda:
        return attend_by_definition(q, k, v, row)
    ends = row.ends.int()
    return torch.ops.aten._flash_attention_forward(q, k, v, ends, ends, row.longest, row.longest, 0.0, True, False)[0]


def attend_by_definition(q: Tensor, k: Tensor, v: Tensor, row) -> Tensor:
    outputs = []
    for start, end in zip(row.ends[:-1].tolist(), row.ends[1:].tolist(), strict=True):
        part = [x[start:end].transpose(0, 1)[None] for x in (q, k, v)]
        outputs.append(F.scaled_dot_product_attention(*part, is_causal=True)[0].transpose(0, 1))
    return torch.cat(outputs)
