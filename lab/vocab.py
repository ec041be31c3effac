"""What the renderer must know about tokens: which begin a name, which are digits, where sentences end."""

import re

import numpy as np
from tokenizers import Tokenizer

SPACE, NEWLINE = "Ġ", "Ċ"


def mask(strings: list[str], pattern: str) -> np.ndarray:
    wanted = re.compile(pattern)
    return np.array([bool(wanted.fullmatch(s)) for s in strings])


class Vocabulary:
    """Boolean masks over token ids, and encoding without specials."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        strings = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
        self.name = mask(strings, SPACE + r"[A-Z][a-z]\w*")
        self.names = np.flatnonzero(self.name)
        self.digit = mask(strings, r"[0-9]")
        self.tail = mask(strings, r"[A-Za-z]+")
        self.stop = mask(strings, r"[.!?][\"')]*")
        self.newline = mask(strings, r"Ċ+")
        self.plain = np.flatnonzero(mask(strings, SPACE + r"[a-z]{3,}"))
        self.opens = mask(strings, f"[{SPACE}{NEWLINE}].*")
        self.word = mask(strings, SPACE + r"[A-Za-z]+")
        self.space = tokenizer.token_to_id(SPACE)

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text).ids, np.uint16)
