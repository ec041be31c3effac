"""A checkpoint folder of ours to a GGUF file that llama.cpp reads, for a side-by-side run on the same weights.

    python bench/llama_cpp_convert.py LLAMA_CPP_SOURCE lab/model OUT.gguf [--outtype bf16]

Three things llama.cpp wants otherwise: an lm_head of its own (it ties nothing for this architecture; the shipped file
has one), a class for the tokenizer, and a known name for the pre-tokenizer. Speed does not depend on the last, so it is
told "kimi-k2".
Needs transformers (the extra `parity`); not part of the product.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file


def untied_copy(model: Path, into: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    if config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    config["tie_word_embeddings"] = False
    save_file(tensors, into / "model.safetensors", metadata={"format": "pt"})
    (into / "config.json").write_text(json.dumps(config))
    shutil.copy(model / "tokenizer.json", into)
    (into / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def convert(source: Path, folder: Path, out: Path, outtype: str) -> None:
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    from conversion.base import TextModel  # llama.cpp's own converter

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "kimi-k2"
    import convert_hf_to_gguf

    sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", outtype]
    convert_hf_to_gguf.main()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--outtype", default="bf16", choices=["f32", "bf16", "q8_0"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        untied_copy(arguments.model, Path(folder))
        convert(arguments.source, Path(folder), arguments.out, arguments.outtype)


if __name__ == "__main__":
    main()
