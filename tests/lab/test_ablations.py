"""Variants of the small model do what they say and learn; cut runs go on; perplexities are compared seed by seed."""

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.corpus import KINDS
from lab.experiments import small
from lab.experiments.ablations import __main__ as ablations
from lab.experiments.ablations.claims import PAPER, agrees, claims, over, spread
from lab.experiments.common import Checkpoint, Clock, settings
from lab.experiments.text import Text, token_bytes, windows
from lab.net import KDA, MLA, Net, Row
from lab.parcel import write

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
FOLDER = Path(small.__file__).parent
TINY = {"vocabulary": 128, "layers": 4, "hidden": 32, "heads": 2, "head_dim": 16, "ratio": 3}
MODEL = TINY | {"gate": "sigmoid", "conv": True, "rope": False}
VARIANTS = settings(FOLDER / "ablations/config.toml")["variants"]


@pytest.fixture(scope="module")
def parcels(tmp_path_factory) -> Path:
    """Texts of 64 words in which every word tells the next."""
    folder, pick = tmp_path_factory.mktemp("parcels"), np.random.default_rng(0)
    order = pick.permutation(64) + 16
    texts = [np.tile(np.roll(order, int(pick.integers(64))), 6).astype(np.uint16) for _ in range(8)]
    write({kind: texts for kind in KINDS}, folder / "0.xz")
    write({kind: texts[:2] for kind in KINDS}, folder / "held.xz")
    return folder


def tiny_config(parcels: Path) -> dict:
    config = settings(FOLDER / "ablations/config.toml", miniature=True)
    config["model"]["vocabulary"], config["train"]["muon"], config["parcels"] = 128, 2e-2, str(parcels)
    return config


def arguments(out: Path, seconds: float = 60.0, only: tuple[str, ...] = ()) -> argparse.Namespace:
    return argparse.Namespace(out=out, checkpoints=out / "on", device=CPU, seconds=seconds, only=list(only))


def net(**change) -> Net:
    torch.manual_seed(0)
    return Net(small.shape(MODEL | change), torch.float32)


def test_every_variant_learns_at_the_same_flops(parcels, tmp_path):
    config = tiny_config(parcels)
    found = small.run(arguments(tmp_path), ablations.cases(config), config["parcels"]).all()
    assert {one["case"] for one in found} == {f"{name}.1" for name in VARIANTS}
    for one in found:
        assert one["curve"][-1][1] < one["curve"][0][1] - 0.15, one["case"]
        assert abs(one["spent_flops"] - one["settings"]["flops"]) <= one["spent_flops"] / one["steps"] / 2
        assert 0 < one["loss"] < math.log(128) + 0.5
    ablations.plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_run_cut_short_goes_on_to_the_same_numbers(parcels, tmp_path):
    config = tiny_config(parcels)
    (case, own), text = next(ablations.cases(config)), Text.load(parcels, CPU)
    whole = small.Run(own, text, CPU, Checkpoint(tmp_path / "whole.pt"))
    assert whole.train(case, Clock(60.0))
    cut = small.Run(own, text, CPU, Checkpoint(tmp_path / "cut.pt"))
    assert not cut.train(case, Clock(0.0)) and cut.step == config["train"]["look"]
    again = small.Run(own, text, CPU, Checkpoint(tmp_path / "cut.pt"))
    assert again.step == config["train"]["look"] and again.train(case, Clock(60.0))
    assert again.curve == whole.curve
    assert all(torch.equal(a, b) for a, b in zip(again.net.parameters(), whole.net.parameters(), strict=True))


@pytest.mark.parametrize(("ratio", "full"), [(0, range(1, 17)), (1, range(2, 17, 2)), (3, [4, 8, 12, 16]), (15, [16])])
def test_the_ratio_lays_the_layers(ratio, full):
    config = small.shape(MODEL | {"layers": 16, "ratio": ratio})
    linear = config["linear_attn_config"]
    assert linear["full_attn_layers"] == list(full)
    with torch.device("meta"):
        layers = Net(config).layers
    assert [n for n, layer in enumerate(layers, 1) if isinstance(layer.self_attn, MLA)] == list(full)
    assert sorted(linear["kda_layers"] + linear["full_attn_layers"]) == list(range(1, 17))


def test_what_a_variant_has_not_is_not_there():
    own = {name for name, _ in KDA(net().config).named_parameters()}
    without = {name: {n for n, _ in KDA(net(**change).config).named_parameters()} for name, change in VARIANTS.items()}
    assert own - without["no-conv"] == {"q_conv1d", "k_conv1d", "v_conv1d"}
    assert own - without["no-gate"] == {"g_a_proj", "g_b_proj"}
    assert own == without["swish-gate"] == without["rope"]


def test_the_gates():
    o, gate = torch.randn(5, 2, 16), torch.randn(5, 2, 16)
    plain, sigmoid, swish = (KDA(net(gate=name).config) for name in ("none", "sigmoid", "swish"))
    for one in (sigmoid, swish):
        one.o_proj = plain.o_proj
    assert plain.before(torch.randn(5, 32), torch.arange(5))[-1] is None
    torch.manual_seed(1)
    normed = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5)
    for mixer, factor in ((plain, 1.0), (sigmoid, gate.sigmoid()), (swish, gate * gate.sigmoid())):
        given = None if mixer is plain else gate
        torch.testing.assert_close(mixer.after(o, given), (normed * factor).flatten(1) @ plain.o_proj.T)


def test_without_filters_a_token_alone_makes_its_key():
    u = torch.randn(6, 32)
    changed = u.clone()
    changed[2] += 1.0
    for conv, reach in ((True, [2, 3, 4, 5]), (False, [2])):
        mixer = KDA(net(conv=conv).config)
        before, after = (mixer.before(x, torch.arange(6))[1] for x in (u, changed))
        assert [n for n in range(6) if not torch.equal(before[n], after[n])] == reach


def scores(mixer: MLA, first: int) -> torch.Tensor:
    """Products of queries and keys [heads, 6, 6] of the same six inputs, the first of them at place ``first``."""
    u = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    q, k, _ = mixer.before(u, torch.arange(first, first + 6, dtype=torch.int32))
    return torch.einsum("ihd,jhd->hij", q, k)


def test_rope_tells_distances_and_nothing_else():
    rope, nope = (MLA(net(rope=turned).config) for turned in (True, False))
    nope.load_state_dict(rope.state_dict())
    torch.testing.assert_close(scores(rope, 0), scores(rope, 1000), rtol=1e-4, atol=1e-6)
    assert torch.equal(scores(nope, 0), scores(nope, 1000))
    same = torch.ones(6, 32)
    q, k, _ = rope.before(same, torch.arange(6))
    found = torch.einsum("ihd,jhd->hij", q, k)[0]
    assert torch.allclose(found.diagonal(1), found[0, 1].expand(5), rtol=1e-4)
    assert (found[0] - found[0, 0]).abs()[1:].min() > 1e-7


def test_a_sequence_begins_anew_in_its_row():
    model, ids = net(rope=True), torch.randint(16, 80, (48,))
    alone = model.hidden(ids[32:], Row(torch.tensor([0, 16], dtype=torch.int32), CPU))[0]
    behind = model.hidden(ids, Row(torch.tensor([0, 32, 48], dtype=torch.int32), CPU))[0]
    torch.testing.assert_close(behind[32:], alone, rtol=1e-4, atol=1e-5)


def test_windows_and_bytes(parcels):
    text = Text.load(parcels, CPU)
    assert len(text.train) == 4 * 8 * (64 * 6 + 1)
    tokens, targets = windows(text.train, torch.tensor([0, 100]), 8)
    assert tokens.tolist() == [*text.train[:8].tolist(), *text.train[100:108].tolist()]
    assert targets.tolist() == [*text.train[1:9].tolist(), *text.train[101:109].tolist()]
    lengths = token_bytes()
    assert lengths[:16].sum() == 0 and lengths[16:].min() == 1 and len(lengths) == 16384


def test_bytes_of_tokens_add_up_to_the_text():
    from tests.lab.small import TOKENIZER

    for text in ("Straße, naïve — 42 栞\n\tdef f(x):", "plain words and spaces"):
        assert token_bytes()[TOKENIZER.encode(text).ids].sum() == len(text.encode())


def case(name: str, seed: int, loss: float) -> dict:
    return {"case": f"{name}.{seed}", "settings": {"seed": seed}, "loss": loss}


def test_perplexity_is_compared_seed_by_seed():
    base = {1: 3.0, 2: 3.2, 3: 3.1}
    results = [case("3-1", seed, loss) for seed, loss in base.items()]
    results += [case("0-1", seed, loss + math.log(1.02)) for seed, loss in base.items()]
    results += [case("swish-gate", seed, loss + math.log(0.97)) for seed, loss in base.items()]
    results += [case("no-conv", 9, 3.0)]
    found = over(results)
    assert found.keys() == {"0-1", "swish-gate"}
    mean, half, count = found["0-1"]
    assert math.isclose(mean, 2.0, rel_tol=1e-9) and half < 1e-9 and count == 3
    rows = {one.command.split()[-1]: one for one in claims(results)}
    assert rows["0-1"].agrees is True and rows["swish-gate"].agrees is False
    assert rows["no-conv"].ours == "not run" and rows["no-conv"].agrees is None


def test_spread_is_students():
    mean, half, count = spread([1.0, 2.0, 3.0])
    assert (mean, count) == (2.0, 3) and math.isclose(half, 4.303 / math.sqrt(3), rel_tol=1e-3)
    assert agrees(PAPER["0-1"], 0.5, 0.6) is None and spread([1.0])[1] == math.inf
