"""The checkpoint we write, read by transformers' own kimi_linear: the same greedy tokens as our engine's.

Needs the extra `parity` (transformers), which `make setup` installs.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from bench.llama_parity import COUNT, Ours, prompts
from engine import load_model
from lab.export import save_model
from lab.finetune.run import net_of
from lab.finetune.score import Judge
from lab.tokenizer import DOC
from lab.vocab import Vocabulary

transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "lab/model"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights through the training model and back out, as training would write them."""
    folder = tmp_path_factory.mktemp("released")
    save_model(net_of(SHIPPED, CPU), folder)
    shutil.copyfile(SHIPPED / "tokenizer.json", folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def theirs(released: Path) -> Iterator[torch.nn.Module]:
    """transformers' model in fp32; that every tensor found its place is checked by what loading reports."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        released, dtype=torch.float32, output_loading_info=True
    )
    assert type(model).__name__ == "KimiLinearForCausalLM" and type(model).__module__.startswith("transformers.models.")
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), told
    yield model.eval()


def test_twenty_prompts_have_the_same_greedy_tokens(released: Path, theirs: torch.nn.Module) -> None:
    ours, asked = Ours(released), prompts(Vocabulary(Tokenizer.from_file(str(released / "tokenizer.json"))))
    assert len(asked) == 20
    for ids in asked:
        with torch.inference_mode():
            said = theirs.generate(
                torch.tensor([ids]), max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert said[0, len(ids) :].tolist() == ours.greedy(ids)


def test_every_token_of_a_page_is_as_probable_there_as_here(released: Path, theirs: torch.nn.Module) -> None:
    judge = Judge(released, CPU)
    ids = [DOC, *judge.vocab.encode((ROOT / "docs/samples/the-lamplighters-ledger.md").read_text()).tolist()][:600]
    with torch.inference_mode():
        logits = theirs(torch.tensor([ids])).logits[0, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(torch.tensor(judge.losses(ids), dtype=torch.float64), losses, atol=1e-3, rtol=0)


def test_training_and_back_changes_no_weight_and_the_head_is_its_own(released: Path) -> None:
    assert json.loads((released / "config.json").read_text())["tie_word_embeddings"] is False
    with (
        safe_open(SHIPPED / "model.safetensors", "pt") as before,
        safe_open(released / "model.safetensors", "pt") as after,
    ):
        for name in before.keys():  # noqa: SIM118
            assert torch.equal(before.get_tensor(name), after.get_tensor(name)), name
        head = "lm_head.weight" if "lm_head.weight" in before.keys() else "model.embed_tokens.weight"  # noqa: SIM118
        assert torch.equal(after.get_tensor("lm_head.weight"), before.get_tensor(head))


def test_the_engine_loads_a_tied_file_and_an_untied_one_alike(released: Path) -> None:
    """The same weights by both ways of writing them down give the same numbers."""
    texts = [Judge(folder, CPU).losses(list(range(100, 180))) for folder in (SHIPPED, released)]
    assert texts[0] == texts[1]
    assert load_model(released).head is not load_model(released).embedding
