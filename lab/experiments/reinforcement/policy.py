"""A group-relative policy gradient: advantages against the group's own mean, PPO's clipping, KL to the start."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.experiments.rivals import Rival, rectangle


@torch.no_grad()
def sample(net: Rival, prompts: Tensor, length: int, pick: torch.Generator) -> Tensor:
    """Answers [B,length] at temperature 1 to prompts [B,P]. The short prefix is run again for every token."""
    tokens = prompts
    for _ in range(length):
        chances = next_tokens(net, tokens, 1)[:, 0].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=pick)], 1)
    return tokens[:, prompts.shape[1] :]


def next_tokens(net: Rival, tokens: Tensor, last: int) -> Tensor:
    """Logits [B,last,vocabulary] fp32 behind the last tokens of every sequence of [B,T]."""
    x, _ = net.hidden(tokens.flatten(), rectangle(tokens))
    return net.logits(x.view(*tokens.shape, -1)[:, -last:]).float()


def log_probs(net: Rival, prompts: Tensor, answers: Tensor) -> Tensor:
    """Log-probability [B,A] of every token of the answers, nats."""
    logits = next_tokens(net, torch.cat([prompts, answers[:, :-1]], 1), answers.shape[1])
    return -F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view_as(answers)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [groups,G], each against the mean of the other G - 1 of its group: an unbiased baseline."""
    group = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * group / (group - 1)


def loss(logp: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, clip: float, kl: float) -> Tensor:
    """What to minimise: logp, old, reference [B,A] under the net, the net that sampled and the start; advantage [B].

    Old and reference carry no gradient. The distance is estimated by e^d - 1 - d of d = reference - logp: never
    negative, and its mean over the net's own samples is the KL divergence from the start.
    """
    ratio, gain = (logp - old).exp(), advantage[:, None]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    return (kl * distance(logp, reference) - surrogate).sum(1).mean()


def distance(logp: Tensor, reference: Tensor) -> Tensor:
    apart = reference - logp
    return apart.exp() - 1 - apart
