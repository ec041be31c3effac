"""The shipped checkpoint, read by transformers' own kimi_linear: the same greedy tokens as our engine's.

Needs the extra `parity` (transformers), which `make setup` installs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from bench.llama_parity import COUNT, Ours, prompts
from lab.export import save_model
from lab.finetune.run import net_of
from lab.finetune.score import Judge
from lab.tokenizer import DOC
from lab.vocab import Vocabulary

transformers = pytest.importorskip("transformers", reason="needs the extra `parity`: pip install -e '.[parity]'")

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "lab/model"
CPU = torch.device("cpu")


def loaded(dtype: torch.dtype, **kwargs: Any) -> torch.nn.Module:
    """transformers' model of the shipped file; that every tensor found its place is what loading reports."""
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        SHIPPED, dtype=dtype, output_loading_info=True, **kwargs
    )
    assert type(model).__name__ == "KimiLinearForCausalLM" and type(model).__module__.startswith("transformers.models.")
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), told
    return model.eval()


def test_twenty_prompts_have_the_same_greedy_tokens() -> None:
    ours, theirs = Ours(SHIPPED), loaded(torch.float32)
    asked = prompts(Vocabulary(Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))))
    assert len(asked) == 20
    for number, ids in enumerate(asked):
        with torch.inference_mode():
            said = theirs.generate(
                torch.tensor([ids]), max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert said[0, len(ids) :].tolist() == ours.greedy(ids), f"prompt {number}"


def test_every_token_of_a_page_is_as_probable_there_as_here() -> None:
    """Theirs in float64: in float32 it parts where two experts are chosen between at a distance of 1e-5 and less."""
    judge, theirs = Judge(SHIPPED, CPU), loaded(torch.float64, experts_implementation="eager")
    ids = [DOC, *judge.vocab.encode((ROOT / "docs/samples/the-lamplighters-ledger.md").read_text()).tolist()][:600]
    with torch.inference_mode():
        logits = theirs(torch.tensor([ids])).logits[0, :-1].double()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    torch.testing.assert_close(torch.tensor(judge.losses(ids), dtype=torch.float64), losses, atol=1e-3, rtol=0)


def test_training_and_back_changes_no_weight(tmp_path: Path) -> None:
    save_model(net_of(SHIPPED, CPU), tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (SHIPPED, tmp_path))
    assert before.keys() == after.keys() and "lm_head.weight" in after
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """The shipped weights with the embedding for a head, as a file that has no other."""
    tensors = load_file(SHIPPED / "model.safetensors")
    del tensors["lm_head.weight"]
    (tmp_path / "tied").mkdir()
    save_file(tensors, tmp_path / "tied/model.safetensors", metadata={"format": "pt"})
    config = json.loads((SHIPPED / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "tied/config.json").write_text(json.dumps(config))
    shutil.copyfile(SHIPPED / "tokenizer.json", tmp_path / "tied/tokenizer.json")
    return tmp_path / "tied"


def test_the_engine_loads_a_tied_file_and_an_untied_one_alike(tied: Path, tmp_path: Path) -> None:
    """The same weights by both ways of writing them down give the same numbers."""
    apart = tmp_path / "apart"
    apart.mkdir()
    save_model(net_of(tied, CPU), apart)
    shutil.copyfile(SHIPPED / "tokenizer.json", apart / "tokenizer.json")
    assert json.loads((apart / "config.json").read_text())["tie_word_embeddings"] is False
    texts = [Judge(folder, CPU).losses(list(range(100, 180))) for folder in (tied, apart)]
    assert texts[0] == texts[1]
