import math
from collections import Counter

import pytest
import torch

from engine import SamplingParams
from engine.sampler import logprob, sample, uniform

P = torch.tensor([0.1, 0.4, 0.2, 0.3])
LOGITS = P.log()


def draws(count=4000, **params):
    settings = SamplingParams(**({"temperature": 1.0, "seed": 7} | params))
    return Counter(sample(LOGITS, settings, position) for position in range(count))


def test_greedy_takes_the_likeliest_and_the_smaller_id_of_equals():
    assert sample(LOGITS, SamplingParams(), 0) == 1
    assert sample(torch.tensor([0.0, 2.0, 2.0]), SamplingParams(), 0) == 1


def chi_square(counts, expected):
    total = sum(counts.values())
    return sum((counts[i] - total * p) ** 2 / (total * p) for i, p in enumerate(expected) if p)


def test_tokens_come_as_often_as_they_are_likely():
    assert chi_square(draws(), P.tolist()) < 16.3  # 3 degrees of freedom, one in a thousand


def test_temperature_sharpens():
    sharp = (P**2 / (P**2).sum()).tolist()
    assert chi_square(draws(temperature=0.5), sharp) < 16.3


@pytest.mark.parametrize("cut, kept", [({"top_k": 2}, [1, 3]), ({"top_p": 0.69}, [1, 3]), ({"top_p": 0.3}, [1])])
def test_cuts_keep_the_likeliest_and_their_proportions(cut, kept):
    counts = draws(**cut)
    assert sorted(counts) == kept
    if len(kept) == 2:
        assert chi_square(counts, [0, 4 / 7, 0, 3 / 7]) < 10.8


def test_top_p_counts_what_top_k_left():
    """Of {0.4, 0.3, 0.2} renormalised, 0.44 and 0.33 reach 0.7; of all four, 0.4 and 0.3 would just reach it too."""
    assert sorted(draws(top_k=3, top_p=0.77)) == [1, 3]
    assert sorted(draws(top_p=0.77)) == [1, 2, 3]


def test_the_same_seed_and_position_draw_the_same_number():
    assert uniform(1, 2) == uniform(1, 2)
    numbers = {uniform(seed, position) for seed in range(30) for position in range(30)}
    assert len(numbers) == 900 and all(0 <= x < 1 for x in numbers)
    assert abs(sum(numbers) / 900 - 0.5) < 0.04


def test_logprob_is_the_models_own():
    assert logprob(LOGITS, 3) == pytest.approx(math.log(0.3))


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"top_k": -1}, {"max_tokens": 0}, {"seed": -1}],
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
