"""One model's way: taught by examples until it is as good as wanted, then rewarded."""

import copy
from typing import Any

import torch
from torch import Tensor

from lab.experiments.reinforcement import policy
from lab.experiments.reinforcement.arithmetic import Sums, rewards
from lab.experiments.rivals import rival

WARM = 50  # steps of teaching over which the rate rises


class Learner:
    """``settings`` is config.toml's [model], [task], [teaching] and [rewarding]."""

    def __init__(self, kind: str, seed: int, settings: dict, device: torch.device):
        torch.manual_seed(seed)
        self.task, self.teaching, self.rewarding = (settings[name] for name in ("task", "teaching", "rewarding"))
        self.sums = Sums(self.task["terms"], self.task["digits"])
        self.net = rival(kind, settings["model"], device)
        self.reference = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = self._adam(self.teaching["rate"])
        self.pick = torch.Generator(device).manual_seed(seed)
        self.test = self.sums.draw(self.task["test"], False, torch.Generator(device).manual_seed(0))
        self.taught, self.updates, self.curve = 0, -1, list[dict[str, float]]()

    def _adam(self, rate: float) -> torch.optim.AdamW:
        fused = self.net.embed_tokens.is_cuda
        return torch.optim.AdamW(self.net.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)

    def _step(self, loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def teach(self) -> bool:
        """A step on examples. False, and nothing learned, where the model is good enough or the steps are up."""
        if self.updates >= 0:
            return False
        if self.taught % self.teaching["look"] == 0 and self.score()["sampled"] >= self.teaching["until"]:
            return False
        if self.taught >= self.teaching["most"]:
            return False
        self.taught += 1
        for group in self.optimiser.param_groups:
            group["lr"] = self.teaching["rate"] * min(1.0, self.taught / WARM)
        prompts, answers = self.sums.draw(self.teaching["batch"], True, self.pick)
        self._step(-policy.log_probs(self.net, prompts, answers).mean())
        return True

    def begin(self) -> None:
        """Where rewarding starts: the reference is the model as it is, the moments begin anew."""
        self.reference.load_state_dict(self.net.state_dict())
        self.optimiser, self.updates = self._adam(self.rewarding["rate"]), 0
        self.curve.append({"updates": 0} | self.score())

    def update(self) -> None:
        """Samples groups of answers, rewards them, takes a step for each of the pieces they are cut into."""
        group, own = self.rewarding["group"], self.rewarding
        prompts, right = (x.repeat_interleave(group, 0) for x in self.sums.draw(own["prompts"], True, self.pick))
        said = policy.sample(self.net, prompts, self.sums.answer, self.pick)
        reward = rewards(said, right)
        gain = policy.advantages(reward.view(-1, group)).flatten()
        with torch.no_grad():
            old, reference = (policy.log_probs(net, prompts, said) for net in (self.net, self.reference))
        for part in torch.randperm(len(said), generator=self.pick, device=self.pick.device).chunk(own["pieces"]):
            logp = policy.log_probs(self.net, prompts[part], said[part])
            self._step(policy.loss(logp, old[part], reference[part], gain[part], own["clip"], own["kl"]))
        self.updates += 1
        if self.updates % own["look"] == 0:
            apart = policy.distance(old, reference).sum(1).mean()
            self.curve.append(
                {"updates": self.updates, "train": float(reward.mean()), "kl": float(apart)} | self.score()
            )

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Of the test's sums: mean chance of the right answer at temperature 1, share that greedy choice gets."""
        chance, hits = 0.0, 0.0
        for prompts, answers in zip(*(x.split(2048) for x in self.test), strict=True):
            logits = policy.next_tokens(self.net, torch.cat([prompts, answers[:, :-1]], 1), answers.shape[1])
            logp = logits.log_softmax(-1).gather(-1, answers[..., None])[..., 0].sum(1)
            chance, hits = chance + float(logp.exp().sum()), hits + float(rewards(logits.argmax(-1), answers).sum())
        return {"sampled": chance / len(self.test[0]), "greedy": hits / len(self.test[0])}

    def state(self) -> dict[str, Any]:
        held = {name: getattr(self, name).state_dict() for name in ("net", "reference", "optimiser")}
        return held | {"pick": self.pick.get_state(), "counts": [self.taught, self.updates], "curve": self.curve}

    def load(self, state: dict[str, Any]) -> None:
        self.taught, self.updates = state["counts"]
        self.curve = list(state["curve"])
        if self.updates >= 0:
            self.optimiser = self._adam(self.rewarding["rate"])
        for name in ("net", "reference", "optimiser"):
            getattr(self, name).load_state_dict(state[name])
        self.pick.set_state(state["pick"].cpu())
