"""Running text and described functions out of Python's own standard library, which every machine has."""

import ast
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from lab.vocab import Vocabulary

MARKS = 16  # ids below are marks of the tasks; the last of them stands for every word that was left out
UNKNOWN = MARKS - 1
ASIDE = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings"}
TEST = 8  # one file in so many is kept for the test, by the hash of its name
LEAST = 20  # characters of a description that says something
DESCRIPTION, CODE = 24, 64  # tokens at most


@dataclass(frozen=True)
class Function:
    """Token ids: the name as it stands in the code, the code without docstring, the docstring's first paragraph."""

    name: np.ndarray
    code: np.ndarray
    description: np.ndarray


@dataclass(frozen=True)
class Texts:
    """Two parts of everything: [0] to train with, [1] to test with. ``words``: ids of plain words."""

    running: tuple[np.ndarray, np.ndarray]
    functions: tuple[list[Function], list[Function]]
    words: np.ndarray


def texts(vocabulary: int, files: int | None = None) -> Texts:
    """``vocabulary`` ids with the marks: the commonest entries of the shipped tokenizer. ``files``: only so many."""
    tokenizer = Tokenizer.from_file("lab/model/tokenizer.json")
    found = dict(list(sources())[:files])
    sides = [int(zlib.crc32(path.encode()) % TEST == 0) for path in found]
    encoded = arrays(tokenizer, list(found.values()))
    kept = commonest(np.concatenate(encoded), vocabulary - MARKS)
    ids = np.full(tokenizer.get_vocab_size(), UNKNOWN)
    ids[kept] = np.arange(MARKS, MARKS + len(kept))
    plain = ids[np.intersect1d(Vocabulary(tokenizer).plain, kept)]
    running, listed = [[], []], [[], []]
    for side, tokens, source in zip(sides, encoded, found.values(), strict=True):
        running[side].append(ids[tokens])
        listed[side].extend(described(source))
    train, test = map(np.concatenate, running)
    return Texts((train, test), tuple(functions(tokenizer, ids, one) for one in listed), plain)


def arrays(tokenizer: Tokenizer, strings: list[str]) -> list[np.ndarray]:
    return [np.array(one.ids, np.int64) for one in tokenizer.encode_batch_fast(strings)]


def sources() -> Iterator[tuple[str, str]]:
    """(path, text) of the library's modules without its tests, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not ASIDE & set(name.parts):
            yield str(name), path.read_text(errors="replace")


def commonest(tokens: np.ndarray, count: int) -> np.ndarray:
    values, times = np.unique(tokens, return_counts=True)
    return np.sort(values[np.argsort(-times, kind="stable")[:count]])


def described(source: str) -> Iterator[tuple[str, str, str]]:
    """Name, code without docstring and decorators, description of every function that has one."""
    for node in ast.walk(ast.parse(source)):
        words = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        if words and len(words) >= LEAST:
            node.body = node.body[1:] or [ast.Pass()]
            node.decorator_list = []
            yield node.name, ast.unparse(node) + "\n", " ".join(words.split("\n\n")[0].split())


def functions(tokenizer: Tokenizer, ids: np.ndarray, found: list[tuple[str, str, str]]) -> list[Function]:
    names, codes, descriptions = (list(one) for one in zip(*found, strict=True))
    parts = zip(names, codes, tokenizer.encode_batch(codes), arrays(tokenizer, descriptions), strict=True)
    return [
        Function(ids[named(name, code, read)], ids[read.ids[:CODE]], ids[words[:DESCRIPTION]])
        for name, code, read, words in parts
    ]


def named(name: str, code: str, read: Encoding) -> list[int]:
    """The tokens that hold a letter of the name where it is defined; the last may hold the bracket, too."""
    first = code.index(name)
    return [token for token, (a, b) in zip(read.ids, read.offsets, strict=True) if b > first and a < first + len(name)]
