"""Train the tokenizer: byte-level BPE, 16,384 entries, sixteen specials first, digits one by one.

The specials are plain vocabulary entries, not "added tokens": no text, whatever it contains, encodes to one of them.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lab.pack import PACK, rows

VOCAB = 16384
SPECIALS = [
    "<|pad|>",
    "<|bos|>",
    "<|end|>",
    "<|doc|>",
    "<|file|>",
    "<|question|>",
    "<|answer|>",
    "<|quote|>",
    "<|/quote|>",
    "<|none|>",
    "<|summary|>",
    "<|find|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
    "<|reserved_2|>",
    "<|reserved_3|>",
]
PAD, BOS, END, DOC, FILE, QUESTION, ANSWER, QUOTE, UNQUOTE, NONE, SUMMARY, FIND = range(12)

SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)(?!\p{L})"
    r"| ?[\p{L}\p{M}]+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
SAMPLE = [  # file, megabytes of text to learn from
    ("corpus/wiki-00", 16),
    ("corpus/wiki-01", 9),
    ("corpus/books-00", 9),
    ("corpus/books-01", 9),
    ("corpus/docs-00", 9),
    ("corpus/code-00", 11),
    ("qa/squad", 6),
    ("qa/fairytaleqa", 2),
]


def sample() -> Iterator[str]:
    """A few megabytes from every part of the pack, the same ones each time."""
    pick = random.Random(7)
    for name, megabytes in SAMPLE:
        left = megabytes * 1_000_000
        for row in rows(PACK / f"{name}.jsonl.zst"):
            if row.get("split") == "valid" or pick.random() < 0.5:
                continue
            text = (row.get("text") or row["context"] + "\n" + row["question"])[:20_000]
            left -= len(text)
            yield text
            if left < 0:
                break


def blank() -> Tokenizer:
    """An untrained tokenizer with our way of splitting text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(out: Path) -> None:
    tokenizer = blank()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=alphabet, max_token_length=24
    )
    tokenizer.train_from_iterator(sample(), trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = []  # user text must never turn into a special
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    train(Path("lab/model/tokenizer.json"))
