"""A random model of every layer kind with a real tokenizer, and the token ids that scripts are made of."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.testing import TINY, save_random_checkpoint

SPECIALS = [
    *("<|pad|>", "<|bos|>", "<|end|>", "<|doc|>", "<|file|>", "<|question|>", "<|answer|>", "<|quote|>"),
    *("<|/quote|>", "<|none|>", "<|summary|>", "<|find|>", *(f"<|reserved_{n}|>" for n in range(4))),
]
END = SPECIALS.index("<|end|>")
PROSE = "The lamp was lit at dusk, and nobody in the harbour remembered who had asked for it. 1984, Käfer, 漢字. " * 20
IDS = range(len(SPECIALS), 256)  # there in every byte-level vocabulary

Ids = tuple[int, ...]
Segments = tuple[Ids, ...]


def save_model(folder: Path) -> Path:
    """Writes config, weights and tokenizer; the same bytes each time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([PROSE], trainer)
    save_random_checkpoint(folder, TINY | {"vocab_size": tokenizer.get_vocab_size()})
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()) | {"added_tokens": []}))
    return folder


def words(dice: random.Random, count: int) -> Ids:
    """Random token ids; no special among them."""
    return tuple(dice.choices(IDS, k=count))
