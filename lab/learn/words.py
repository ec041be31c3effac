"""Two directions for every stem, one as it is asked and one as it stands in code: services/agent/words.npz.

A bag of weighted stems on each side, cosine, cross-entropy against the other functions of a batch, which are of the
same repository. Two stems in five are left out at each step, and a stem's two vectors are drawn together.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from services.agent.meaning import Table
from services.agent.symbols import FIELDS

SIZE, LEAST, MOST = 64, 5, 10_000  # of a vector; times a stem occurs; stems
BATCH, EPOCHS, LEFT_OUT, TOGETHER = 192, 5, 0.4, 0.3
BACKWARDS = 0.3  # weight of the loss from the function to its description
Pair = tuple[list[str], list[list[str]]]  # the description's stems; a function's, by field
Bag = tuple[np.ndarray, np.ndarray]  # numbers of stems, their fields


class Towers(torch.nn.Module):
    def __init__(self, spread: Sequence[int], pairs: int):
        super().__init__()
        start = torch.randn(len(spread), SIZE) / SIZE**0.5
        rarity = torch.log(pairs / torch.tensor(spread, dtype=torch.float32)).clamp(min=0.1) / 5
        self.asked, self.code = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
        self.asked_weight, self.code_weight = torch.nn.Parameter(rarity.clone()), torch.nn.Parameter(rarity.clone())
        self.fields = torch.nn.Parameter(torch.tensor([1.0, 0.3, 0.5, 0.5, 0.5]))
        self.scale = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, asked: Sequence[Bag], code: Sequence[Bag]) -> torch.Tensor:
        """[batch, batch] scores."""
        a, b = together(asked), together(code)
        rows = embedding_bag(a[0], self.asked, a[2], mode="sum", per_sample_weights=self.asked_weight[a[0]])
        weight = self.code_weight[b[0]] * self.fields[b[1]]
        columns = embedding_bag(b[0], self.code, b[2], mode="sum", per_sample_weights=weight)
        return self.scale * normalize(rows, eps=1e-6) @ normalize(columns, eps=1e-6).T

    def apart(self, asked: Sequence[Bag]) -> torch.Tensor:
        stems = torch.unique(together(asked)[0])
        return ((self.asked[stems] - self.code[stems]) ** 2).sum(dim=1).mean()


def together(bags: Sequence[Bag]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All stems, their fields, and where each bag begins."""
    starts = np.cumsum([0, *(len(stems) for stems, _ in bags[:-1])])
    stems, fields = (np.concatenate(parts) for parts in zip(*bags, strict=True))
    return torch.from_numpy(stems), torch.from_numpy(fields), torch.from_numpy(starts)


def learn_words(repositories: Sequence[Sequence[Pair]], epochs: int = EPOCHS) -> Table:
    torch.manual_seed(0)
    spread = Counter(stem for pairs in repositories for pair in pairs for stem in stems_of(pair))
    words = [stem for stem, count in spread.most_common(MOST) if count >= LEAST]
    number = {stem: n for n, stem in enumerate(words)}
    data = [[bags(pair, number) for pair in pairs] for pairs in repositories]
    towers = Towers([spread[stem] for stem in words], sum(map(len, repositories)))
    trained(towers, [[one for one in pairs if all(len(bag[0]) for bag in one)] for pairs in data], epochs)
    with torch.no_grad():
        asked = (towers.asked * towers.asked_weight[:, None]).numpy()
        code = (towers.code * towers.code_weight[:, None]).numpy()
        return Table(number, asked, code, towers.fields.numpy())


def stems_of(pair: Pair) -> set[str]:
    asked, code = pair
    return {*asked, *(stem for field in code for stem in field)}


def bags(pair: Pair, number: dict[str, int]) -> tuple[Bag, Bag]:
    asked, code = pair
    known = [(number[stem], n) for n, field in enumerate(code) for stem in dict.fromkeys(field) if stem in number]
    words = [(number[stem], 0) for stem in asked if stem in number]
    return bag(words), bag(known)


def bag(pairs: Sequence[tuple[int, int]]) -> Bag:
    stems, fields = np.array(pairs, np.int64).reshape(-1, 2).T
    return stems, fields


def trained(towers: Towers, data: Sequence[Sequence[tuple[Bag, Bag]]], epochs: int) -> None:
    plain = [towers.asked, towers.code, towers.asked_weight, towers.code_weight]
    rates = [{"params": plain, "lr": 3e-3}, {"params": [towers.fields], "lr": 1e-2}]
    rates.append({"params": [towers.scale], "lr": 3e-2})
    optimiser = torch.optim.Adam(rates)
    slower = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.75)
    pick = random.Random(0)
    for epoch in range(epochs):
        losses = [step(towers, optimiser, batch, pick) for batch in batches(data, pick)]
        slower.step()
        print(f"words: epoch {epoch + 1}, loss {np.mean(losses):.3f}", flush=True)


def batches(data: Sequence[Sequence[tuple[Bag, Bag]]], pick: random.Random) -> Iterator[list[tuple[Bag, Bag]]]:
    """Each of one repository, in random order."""
    found = []
    for pairs in data:
        mixed = pick.sample(pairs, len(pairs))
        found += [mixed[n : n + BATCH] for n in range(0, len(mixed), BATCH)]
    yield from pick.sample([one for one in found if len(one) > 1], len([one for one in found if len(one) > 1]))


def step(
    towers: Towers, optimiser: torch.optim.Optimizer, batch: Sequence[tuple[Bag, Bag]], pick: random.Random
) -> float:
    asked, code = ([thinned(one[side], pick) for one in batch] for side in (0, 1))
    scores, right = towers(asked, code), torch.arange(len(batch))
    loss = cross_entropy(scores, right) + BACKWARDS * cross_entropy(scores.T, right) + TOGETHER * towers.apart(asked)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def thinned(whole: Bag, pick: random.Random) -> Bag:
    """Some stems left out, never all."""
    kept = [n for n in range(len(whole[0])) if pick.random() >= LEFT_OUT] or [0]
    return whole[0][kept], whole[1][kept]


assert len(FIELDS) == 5  # as many as Towers.fields
