"""The tasks against an oracle that reads the tokens, the rivals against each other, and a model that learns a task."""

from collections import Counter

import numpy as np
import pytest
import torch

from lab.experiments.longcontext import rows, tasks
from lab.experiments.longcontext.rows import Rows, answered, measured, packed
from lab.experiments.longcontext.tasks import ASK, COMMON, FACT, FIND, IS, SAY, WHICH, Sample, Source, draw
from lab.experiments.longcontext.text import MARKS, Function, texts
from lab.experiments.rivals import KINDS, equal, parameters, rectangle, rival
from lab.mixers import remember_by_definition
from lab.net import MLA, Row
from lab.optim import Optimiser

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = {"vocabulary": 64, "width": 32, "layers": 4, "heads": 2, "head_dim": 16, "inner": 160, "latent": 16}


def pick(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def made() -> Source:
    """Ids 16 to 1015; running text and functions of ids up from 500, words below."""
    few = [
        Function(np.array([500 + n]), np.array([600 + n, 500 + n, *[700] * (n % 30)]), np.array([900 + n]))
        for n in range(60)
    ]
    return Source(pick(0).integers(500, 1000, 4000), few, np.arange(16, 500))


def facts(ids: list[int]) -> list[tuple[tuple, tuple]]:
    """(name, value) in the order of the text."""
    starts = [i for i, token in enumerate(ids) if token == FACT]
    assert all(ids[i + 3] == IS for i in starts)
    return [(tuple(ids[i + 1 : i + 3]), tuple(ids[i + 4 : i + 6])) for i in starts]


def looked_up(ids: list[int], mark: int, words: tuple) -> list[int]:
    """What a reader of the whole text would say."""
    told = facts(ids)
    if mark == ASK:
        return [token for name, value in told if name == words for token in value]
    if mark == WHICH:
        found = {words}
        for name, value in told:  # a chain stands in order
            found |= {name} if value in found else set()
        return [token for name, _ in told if name in found for token in name]
    if mark == COMMON:
        return [token for token, _ in Counter(ids).most_common(4)]
    assert mark == FIND
    (number,) = (n for n in range(60) if 900 + n == words[0])
    code = str([600 + number, 500 + number])[1:-1]
    return [500 + number] if code in str(ids) else []


def oracle(one: Sample) -> list[tuple[list[int], list[int]]]:
    """(answer that stands there, answer of the reader), for every question."""
    ids, found = one.ids.tolist(), []
    for first, last in one.answers:
        mark = max(i for i in range(first) if ids[i] in (ASK, WHICH, COMMON, FIND))
        assert ids[first - 1] == SAY
        end = min(i for i in range(len(ids)) if ids[i] in (ASK, WHICH, COMMON, FIND))
        found.append((ids[first:last], looked_up(ids[:end], ids[mark], tuple(ids[mark + 1 : first - 1]))))
    return found


@pytest.mark.parametrize("task", list(tasks.ASKED))
@pytest.mark.parametrize("length", [128, 1000, 4096])
def test_a_reader_of_the_text_gives_the_answer(task: str, length: int, made: Source):
    for seed in range(5):
        one = draw(task, length, made, pick(seed))
        assert len(one.ids) == length and one.answers
        for answer, read in oracle(one):
            if one.unordered and length == 128:
                continue  # too few words for the common ones to be so for sure
            assert (sorted if one.unordered else list)(answer) == (sorted if one.unordered else list)(read)


def test_what_does_not_fit_is_refused(made: Source):
    with pytest.raises(ValueError, match="40 tokens do not hold"):
        draw("variables", 40, made, pick())


def test_the_librarys_functions_are_where_their_descriptions_say():
    found = texts(512, 12)
    assert found.words.min() >= MARKS and max(part.max() for part in found.running) < 512
    assert all(found.functions) and not {id(f) for f in found.functions[0]} & {id(f) for f in found.functions[1]}
    for one in found.functions[0]:
        assert len(one.name) and str(one.name.tolist())[1:-1] in str(one.code.tolist())


def test_a_row_is_the_same_whoever_draws_it_and_only_answers_weigh(made: Source):
    training = {
        "seed": 3,
        "steps": 9,
        "tokens": 700,
        "lengths": [128, 256],
        "read": 0.25,
        "mix": {"single": 1, "text": 1},
    }
    one, other = Rows(made, training, 0)[5], Rows(made, training, 4)[1]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and len(Rows(made, training, 4)) == 5
    tokens, _, weights, ends = one
    assert ends[-1] == len(tokens) == 700
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert weights[end - 1] == 0
        if FACT in tokens[start:end]:
            says = [i for i in range(start, end) if tokens[i] == SAY]
            full = [i for i in range(start, end) if weights[i] == 1]
            assert full == [i + n for i in says for n in (0, 1)]


def test_the_rivals_are_of_one_size():
    size = {"vocabulary": 4096, "width": 256, "layers": 4, "heads": 2, "head_dim": 128, "inner": 768, "latent": 96}
    counts = {kind: parameters(kind, equal(kind, size)) for kind in KINDS}
    assert all(abs(count / counts["hybrid"] - 1) < 0.005 for count in counts.values())


@pytest.mark.parametrize("kind", list(KINDS))
def test_sequences_of_a_row_do_not_see_each_other_nor_what_comes(kind: str):
    torch.manual_seed(0)
    net, tokens = rival(kind, SIZE, CPU), torch.randint(0, 64, (3, 70))
    beside, _ = net.hidden(tokens.flatten(), rectangle(tokens))
    uneven, _ = net.hidden(tokens.flatten(), Row(torch.tensor([0, 70, 100, 210], dtype=torch.int32), "cpu"))
    torch.testing.assert_close(beside[:100], uneven[:100], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(beside[100:140], uneven[100:140], atol=1e-3)


def test_gdn_is_the_definition_with_one_gate_a_head():
    torch.manual_seed(0)
    net = rival("gdn", SIZE, CPU)
    mixer, u = net.layers[0].self_attn, torch.randn(20, 32)
    row = Row(torch.tensor([0, 20], dtype=torch.int32), "cpu")
    q, k, v, decay, beta, _ = mixer.before(u, row.place)
    assert torch.equal(decay[..., 0], decay[..., -1]) and mixer.dt_bias.shape == (2,)
    wanted = remember_by_definition(q, k, v, decay, beta, mixer.A_log, mixer.dt_bias.repeat_interleave(16), row)
    torch.testing.assert_close(mixer.mix(q, k, v, decay, beta, row), wanted, atol=1e-5, rtol=1e-4)


def test_rope_sees_distances_alone():
    torch.manual_seed(0)
    mixer, u = MLA(equal("mla", SIZE)), torch.randn(9, 32)
    scores = []
    for first in (0, 5):
        q, k, _ = mixer.before(u, torch.arange(first, first + 9))
        scores.append(torch.einsum("qhd,khd->hqk", q, k))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)
    q, k, _ = mixer.before(u, torch.zeros(9, dtype=torch.long))
    assert not torch.allclose(torch.einsum("qhd,khd->hqk", q, k), scores[0], atol=1e-3)


def test_an_answer_is_right_where_greedy_decoding_gives_it(made: Source):
    torch.manual_seed(0)
    net = rival("hybrid", SIZE | {"vocabulary": 1016}, CPU)
    ids, said = draw("text", 40, made, pick()).ids, []
    for _ in range(3):
        x, _ = net.hidden(
            torch.from_numpy(np.append(ids, said).astype(np.int64)), rectangle(torch.zeros(1, 40 + len(said)))
        )
        said.append(int(net.logits(x[-1:]).argmax()))
    right, wrong = np.append(ids, said).astype(np.int64), np.append(ids, [*said[:2], said[2] + 1]).astype(np.int64)
    samples = [
        Sample(right, [(40, 43)]),
        Sample(wrong, [(40, 43), (40, 42)]),
        Sample(right, [(40, 41)], unordered=True),
    ]
    assert answered(net, samples, 64) == [(0, 1.0), (1, 0.0), (1, 1.0), (2, 1.0)]
    assert answered(net, samples, 1000) == answered(net, samples, 64)
    assert [[n for n, _ in group] for group in packed(samples, 90)] == [[0, 1], [2]]


def test_a_model_learns_which_words_are_common(made: Source):
    """Twelve words, four of them often: chance is a third."""
    torch.manual_seed(1)
    source = Source(made.running, made.functions, np.arange(16, 28))
    training = {"seed": 1, "steps": 40, "tokens": 512, "lengths": [64, 64], "read": 0.0, "mix": {"common": 1}}
    net = rival("hybrid", SIZE, CPU)
    optimiser = Optimiser(net, 1e-2, 5e-3)
    before = measured(net, source, "common", 64, 24, 4096)
    for tokens, targets, weights, ends in rows.stream(source, training, 0, 0, False):
        x, _ = net.hidden(tokens, Row(ends, "cpu"))
        (net.losses(x, targets) * weights).sum().div(weights.sum()).backward()
        optimiser.step(1.0)
    after = measured(net, source, "common", 64, 24, 4096)
    assert after["ci95"][0] > before["ci95"][1] and after["ci95"][0] > 50, (before, after)
