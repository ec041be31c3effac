"""The tasks against oracles that go token by token, the mixers against their definitions, and a learner that learns."""

import copy
from pathlib import Path

import pytest
import torch

from lab.experiments.common import settings
from lab.experiments.synthetic import mixing, tasks
from lab.experiments.synthetic.claims import claims
from lab.experiments.synthetic.learner import Learner
from lab.experiments.synthetic.paper import LENGTHS, PEAKS
from lab.experiments.synthetic.plots import draw
from lab.experiments.synthetic.speed import errors

CONFIG = Path("lab/experiments/synthetic/config.toml")
CPU = torch.device("cpu")
TASK = {"symbols": 16, "stacks": 3, "pairs": 4}


def made(name: str, length: int = 48, batch: int = 40):
    tokens, targets = tasks.make(name, TASK, batch, length, torch.Generator().manual_seed(3))
    assert tokens.shape == targets.shape == (batch, length)
    assert tokens.min() >= 0 and tokens.max() < tasks.vocabulary(TASK)
    return [(a.tolist(), b.tolist()) for a, b in zip(tokens, targets, strict=True)]


def test_palindrome_asks_for_the_list_backwards():
    for tokens, targets in made("palindrome"):
        at = tokens.index(TASK["symbols"])
        assert targets[at:] == tokens[:at][::-1] and tokens[at + 1 :] == targets[at:-1]
        assert set(targets[:at]) == {tasks.NOT}


def test_mqar_asks_for_what_was_told():
    for tokens, targets in made("mqar"):
        at = tokens.index(TASK["symbols"])
        told = dict(zip(tokens[0:at:2], tokens[1:at:2], strict=True))
        assert len(told) == 48 // TASK["pairs"]
        assert targets == [tasks.NOT] * (at + 1) + [told[key] for key in tokens[at + 1 :]]


def test_mqar_needs_as_many_keys_as_pairs():
    with pytest.raises(ValueError, match="do not fit"):
        made("mqar", 128)


def test_stack_asks_for_the_last_element_pushed():
    pops = 0
    for tokens, targets in made("stack", 96):
        stacks: dict[int, list[int]] = {}
        for at in range(0, len(tokens), 2):
            first, second = tokens[at : at + 2]
            if first == TASK["symbols"]:
                assert targets[at : at + 2] == [tasks.NOT, stacks[second].pop()]
                pops += 1
            else:
                stacks.setdefault(first, []).append(second)
                assert targets[at : at + 2] == [tasks.NOT] * 2
    assert 0.35 * 40 * 48 < pops < 0.5 * 40 * 48


def inputs(kind: str, batch: int, length: int, heads: int = 2, dim: int = 8):
    torch.manual_seed(0)
    rows, forgets = batch * length, (heads, dim) if kind == "kda" else (heads,)
    q, k, v = torch.randn(3, rows, heads, dim)
    return q, k, v, torch.randn(rows, *forgets), torch.randn(rows, heads), torch.rand(heads), torch.randn(forgets)


def by_token(kind, q, k, v, a, b, A_log, dt_bias, batch):
    """Each sequence and head on its own, one token after another, in float64."""
    q, k, v, a, b, A_log, dt_bias = (x.double() for x in (q, k, v, a, b, A_log, dt_bias))
    step, out = torch.nn.functional.softplus(a + dt_bias), torch.zeros_like(v)
    length = len(q) // batch
    for n in range(len(q)):
        for h in range(q.shape[1]):
            if n % length == 0 and h == 0:
                states = q.new_zeros(q.shape[1], q.shape[2], v.shape[2])
            state = states[h] * (-A_log[h].exp() * step[n, h]).exp().expand(q.shape[2])[:, None]
            if kind == "mamba2":
                state = state + step[n, h] * torch.outer(k[n, h], v[n, h])
                out[n, h] = state.T @ q[n, h] + b[n, h] * v[n, h]
            else:
                key, query = k[n, h] / k[n, h].norm(), q[n, h] / q[n, h].norm() * q.shape[2] ** -0.5
                state = state + b[n, h].sigmoid() * torch.outer(key, v[n, h] - state.T @ key)
                out[n, h] = state.T @ query
            states[h] = state
    return out


@pytest.mark.parametrize("kind", ["kda", "gdn", "mamba2"])
@pytest.mark.parametrize("length", [5, 70, 130])
def test_mixers_are_their_definitions(kind, length):
    given = inputs(kind, 2, length)
    flat = (*given[:6], given[6].flatten())
    found = mixing.FORMS["own"][kind](*flat, 2).double()
    expected = by_token(kind, *given, 2)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def own(**training):
    found = copy.deepcopy(settings(CONFIG, miniature=True))
    found["training"] |= training
    return found


def learnt(kind: str, **training) -> Learner:
    learner = Learner("mqar", 8, kind, own(**training), CPU)
    while not learner.ended():
        learner.look()
    return learner


def test_the_learner_learns_and_stops():
    learner = learnt("kda", steps=600, halve=[[40, 1]])
    assert learner.step < 600 and learner.rates != learner.plan["rates"]
    best = learner.curves[str(learner.rates[0])]
    assert best[0][1] < 0.6 and best[-1][1] > 0.99


@pytest.mark.parametrize("kind", ["kda", "gdn", "mamba2"])
def test_runs_side_by_side_are_runs_alone(kind):
    small = {"steps": 8, "look": 4, "halve": []}
    together, alone = learnt(kind, **small), learnt(kind, **small, rates=[1e-2])
    assert torch.allclose(together.weights[1], alone.weights[0], atol=1e-4)
    assert not torch.allclose(together.weights[0], alone.weights[0], atol=1e-3)


def test_a_run_taken_up_is_the_unbroken_one():
    plan = {"steps": 12, "look": 4, "halve": [[8, 1]]}
    broken = Learner("mqar", 8, "kda", own(**plan), CPU)
    broken.look()
    again = Learner("mqar", 8, "kda", own(**plan), CPU)
    again.load(copy.deepcopy(broken.state()))
    while not again.ended():
        again.look()
    unbroken = learnt("kda", **plan)
    assert again.curves == unbroken.curves and torch.equal(again.weights, unbroken.weights)


def result(task: str, length: int, kind: str, peak: float):
    of = {"of": task, "length": length, "kind": kind}
    return {
        "case": f"{task}-{length}-{kind}",
        "settings": of,
        "peak": peak,
        "rate": 1e-3,
        "curves": {"0.001": [[9, peak, 0.1]]},
    }


def test_claims_and_plots(tmp_path):
    at = LENGTHS.index(1024)
    paper = [result("mqar", 1024, kind, PEAKS["mqar"][kind][at] / 100) for kind in ("kda", "gdn", "mamba2")]
    turned = [result("stack", 1024, kind, peak) for kind, peak in (("kda", 0.5), ("gdn", 0.9), ("mamba2", 0.0))]
    agrees = {claim.claim.split(",")[0]: claim.agrees for claim in claims(paper + turned)[:3]}
    assert agrees == {"mqar": True, "palindrome": None, "stack": False}
    draw(paper + turned, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"peaks.png", "curves-1024.png"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["kda", "gdn", "mamba2"])
def test_kernels_and_the_recorded_step_on_a_gpu(kind):
    gpu = torch.device("cuda")
    assert max(errors(kind, "own", gpu)) < 0.03
    small = own(steps=40, look=10, halve=[[20, 1]])
    small["model"]["head_dim"], small["rivals"] = 64, "own"
    recorded, plain = (Learner("stack", 128, kind, small, gpu) for _ in "12")
    while not recorded.ended():
        plain.take = plain.take_step
        recorded.look()
        plain.look()
    for ours, expected in zip(recorded.curves.values(), plain.curves.values(), strict=True):
        assert torch.allclose(torch.tensor(ours), torch.tensor(expected), rtol=0.05, atol=0.02)
