"""Sums against arithmetic, the policy gradient against an enumeration of all groups, a tiny policy that gets better."""

import copy
import itertools

import pytest
import torch

from lab.experiments.reinforcement import policy
from lab.experiments.reinforcement.arithmetic import APART, EQUALS, PLUS, Sums, rewards
from lab.experiments.reinforcement.learner import Learner
from lab.experiments.rivals import rival

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = {"vocabulary": 16, "width": 32, "layers": 4, "heads": 1, "head_dim": 16, "inner": 160, "latent": 16}
TINY = {
    "model": SIZE,
    "task": {"terms": 1, "digits": 2, "test": 32},
    "teaching": {"rate": 3e-3, "batch": 64, "until": 0.3, "most": 200, "look": 5},
    "rewarding": {"rate": 1e-3, "prompts": 16, "group": 8, "pieces": 2, "clip": 0.2, "kl": 0.01, "look": 5},
}


def pick(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("terms", "digits"), [(1, 1), (2, 3), (3, 4), (12, 2)])
def test_a_sum_is_the_sum(terms: int, digits: int):
    sums = Sums(terms, digits)
    for seen in (True, False):
        for prompt, answer in zip(*(x.tolist() for x in sums.draw(200, seen, pick())), strict=True):
            said = "".join("0123456789+="[token] for token in prompt)
            numbers = [int(number) for number in said.removesuffix("=").split("+")]
            assert len(said) == terms * (digits + 1) and len(numbers) == terms and len(answer) == sums.answer
            assert int("".join(map(str, answer))) == sum(numbers)
            assert (numbers[0] % APART != 0) == seen
            assert prompt.count(PLUS) == terms - 1 and prompt[-1] == EQUALS


def test_a_reward_is_for_every_digit():
    right = torch.tensor([[1, 2], [1, 2], [1, 2]])
    assert rewards(torch.tensor([[1, 2], [1, 3], [0, 2]]), right).tolist() == [1.0, 0.0, 0.0]


def test_the_estimator_is_the_gradient_of_the_expected_reward():
    """All groups of three of four answers, each with its chance: their gradients' mean is the exact gradient."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([0.0, 1.0, 1.0, 0.25], dtype=torch.float64)
    (exact,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    found = torch.zeros_like(exact)
    for group in itertools.product(range(4), repeat=3):
        said, logp = torch.tensor(group), logits.log_softmax(0)[list(group)][:, None]
        gain = policy.advantages(reward[said][None]).flatten()
        loss = policy.loss(logp, logp.detach(), logp.detach(), gain, 0.2, 0.0)
        found -= logp.detach().sum().exp() * torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(found, exact)


def test_the_distance_is_the_divergence_on_average():
    logp, reference = (torch.tensor(x).log_softmax(0) for x in ([0.3, -1.0, 0.8], [0.0, 0.5, -0.5]))
    exact = (logp.exp() * (logp - reference)).sum()
    torch.testing.assert_close((logp.exp() * policy.distance(logp, reference)).sum(), exact)
    assert (policy.distance(logp, reference) > 0).all()


@pytest.mark.parametrize(
    ("ratio", "gain", "moves"), [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, -1.0, False), (0.7, 1.0, True)]
)
def test_what_has_moved_far_enough_is_not_pushed_on(ratio: float, gain: float, moves: bool):
    logp = torch.tensor([[ratio]]).log().requires_grad_()
    policy.loss(logp, torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([gain]), 0.2, 0.0).backward()
    assert bool(logp.grad) == moves


@pytest.mark.parametrize("kind", ["hybrid", "mla", "gdn"])
def test_samples_come_as_often_as_their_probability_says(kind: str):
    torch.manual_seed(0)
    net = rival(kind, SIZE | {"vocabulary": 3}, CPU)
    net.embed_tokens.data *= 30
    prompt = torch.tensor([[0, 2, 1]])
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    chances = policy.log_probs(net, prompt.expand(9, 3), every).sum(1).exp()
    assert abs(float(chances.detach().sum()) - 1) < 1e-5 and float(chances.detach().std()) > 0.02
    said = policy.sample(net, prompt.expand(2000, 3), 2, pick())
    shares = (said @ torch.tensor([3, 1])).bincount(minlength=9) / 2000
    assert (shares - chances).abs().max() < 0.045


def test_reward_alone_makes_a_taught_model_better_and_a_broken_run_goes_on_the_same():
    learner = Learner("hybrid", 1, TINY, CPU)
    while learner.teach():
        pass
    start = learner.score()["sampled"]
    assert 0.3 <= start < 0.8
    learner.begin()
    for _ in range(10):
        learner.update()
    other = Learner("hybrid", 1, TINY, CPU)
    other.load(copy.deepcopy(learner.state()))
    for one in (learner, other):
        for _ in range(10):
            one.update()
    assert learner.curve == other.curve and [point["updates"] for point in learner.curve] == [0, 5, 10, 15, 20]
    assert learner.curve[-1]["train"] > start + 0.15, learner.curve
    assert not other.teach()
