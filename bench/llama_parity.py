"""Twenty prompts through llama.cpp and through our engine, on the same checkpoint: are the greedy tokens the same?

    python -m bench.llama_parity MODEL.gguf [--model lab/model] [--out bench/results/llama-parity.json]

MODEL.gguf from bench/llama_cpp_convert.py, --outtype f32: with bf16 weights llama.cpp rounds activations to bf16 too.
Needs the llama-cpp-python package (or its `llama_cpp` folder on PYTHONPATH and LLAMA_CPP_LIB_PATH naming the built
libraries). Status 1 where a token differs. See docs/llama-cpp.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from engine import Engine, SamplingParams, Token, load_model
from lab.finetune.rows import read_rows
from lab.tokenizer import ANSWER, DOC, QUESTION
from lab.vocab import Vocabulary

COUNT = 24  # tokens decoded behind each prompt, whatever they are
ROOT = Path(__file__).parents[1]
GGML_TYPE_F32, FLASH_ATTENTION_OFF = 0, 0  # ggml_type, llama_flash_attn_type


def prompts(vocab: Vocabulary) -> list[list[int]]:
    """Ten job cards of the worked example with a question each; ten pages of the sample book, to go on from."""
    cards = read_rows(ROOT / "examples/job-cards.valid.jsonl")[::3][:10]
    book = (ROOT / "docs/samples/the-lamplighters-ledger.md").read_text()
    pages = [book[start : start + 1500].rpartition(" ")[0] for start in range(4000, 4000 + 10 * 3000, 3000)]
    asked = [(vocab.encode(row.text).tolist(), vocab.encode(row.question).tolist()) for row in cards]
    turns = [[DOC, *text, QUESTION, *question, ANSWER] for text, question in asked]
    return turns + [[DOC, *vocab.encode(page).tolist()] for page in pages]


class Ours:
    """Our engine, fp32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine(load_model(folder))

    def greedy(self, ids: list[int]) -> list[int]:
        seq = self.engine.open()
        self._run(self.engine.read(seq, ids))
        said = self._run(self.engine.generate(seq, SamplingParams(max_tokens=COUNT)))
        self.engine.close(seq)
        return said

    def _run(self, request: int) -> list[int]:
        events = []
        while self.engine.busy:
            events += self.engine.step()
        return [event.id for event in events if isinstance(event, Token) and event.request == request]


class Llama:
    """llama.cpp with one sequence."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self.ll: Any = llama_cpp
        self.ll.llama_backend_init()
        self.model = self.ll.llama_model_load_from_file(str(file).encode(), self.ll.llama_model_default_params())
        self.vocab = self.ll.llama_vocab_n_tokens(self.ll.llama_model_get_vocab(self.model))
        self.params = self.ll.llama_context_default_params()
        # By default latents are kept and attention is computed in 16 bits: enough to turn ties of 0.001 of a logit.
        self.params.type_k = self.params.type_v = GGML_TYPE_F32
        self.params.flash_attn_type = FLASH_ATTENTION_OFF
        self.params.n_ctx = self.params.n_batch = self.params.n_ubatch = 2048
        self.params.n_threads = self.params.n_threads_batch = threads

    def greedy(self, ids: list[int]) -> tuple[list[int], list[np.ndarray]]:
        """(the tokens, the logits that each was taken from)."""
        context = self.ll.llama_init_from_model(self.model, self.params)
        said, seen = [], []
        while len(said) < COUNT:
            fed = said[-1:] or ids
            array = (self.ll.llama_token * len(fed))(*fed)
            assert self.ll.llama_decode(context, self.ll.llama_batch_get_one(array, len(fed))) == 0
            logits = np.ctypeslib.as_array(self.ll.llama_get_logits_ith(context, -1), (self.vocab,)).copy()
            said.append(int(logits.argmax()))
            seen.append(logits)
        self.ll.llama_free(context)
        return said, seen


def compared(theirs: tuple[list[int], list[np.ndarray]], ours: list[int]) -> dict[str, Any]:
    """Equal, or where they part and how far apart the two tokens are there, in llama.cpp's logits."""
    said, seen = theirs
    if said == ours:
        return {"same": True, "tokens": len(ours)}
    at = next(i for i in range(len(ours)) if said[i] != ours[i])
    return {
        "same": False,
        "at": at,
        "theirs": said,
        "ours": ours,
        "apart": float(seen[at][said[at]] - seen[at][ours[at]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "lab/model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ours, llama, found = Ours(arguments.model), Llama(arguments.gguf, arguments.threads), []
    for ids in prompts(Vocabulary(Tokenizer.from_file(str(arguments.model / "tokenizer.json")))):
        found.append({"prompt_tokens": len(ids)} | compared(llama.greedy(ids), ours.greedy(ids)))
        print(json.dumps(found[-1]), flush=True)
    same = sum(row["same"] for row in found)
    print(f"{same} of {len(found)} prompts have the same greedy tokens")
    if arguments.out:
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        result = {"command": " ".join(["python -m bench.llama_parity", *sys.argv[1:]]), "date": date, "same": same}
        arguments.out.write_text(json.dumps(result | {"prompts": found}, indent=1) + "\n")
    return int(same < len(found))


if __name__ == "__main__":
    sys.exit(main())
