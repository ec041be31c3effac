"""Write the model in the released checkpoint's format; cut it into pieces that travel, and join them again.

The head is always written: transformers and llama.cpp tie nothing for this architecture.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lab.net import KDA, MLA, Experts, Net

KEPT = {"A_log", "dt_bias"}  # fp32; everything else bf16
PIECE = 15 * 2**20


def mixer_tensors(mixer: KDA | MLA) -> dict[str, torch.Tensor]:
    found = {}
    for name, p in mixer.named_parameters():
        if name == "A_log":
            found[name] = p.view(1, 1, -1, 1)
        elif name == "dt_bias":
            found[name] = p
        else:
            found[f"{name}.weight"] = p[:, None] if name.endswith("conv1d") else p
    return found


def expert_tensors(mlp: Experts) -> dict[str, torch.Tensor]:
    found = {"gate.weight": mlp.gate, "gate.e_score_correction_bias": mlp.bias}
    inner, routed = mlp.inner, mlp.count * mlp.inner
    for e in range(mlp.count):
        rows = slice(e * inner, (e + 1) * inner)
        found |= {
            f"experts.{e}.w1.weight": mlp.w1[rows],
            f"experts.{e}.w3.weight": mlp.w3[rows],
            f"experts.{e}.w2.weight": mlp.w2[:, rows],
        }
    shared = {"gate_proj": mlp.w1[routed:], "up_proj": mlp.w3[routed:], "down_proj": mlp.w2[:, routed:]}
    return found | {f"shared_experts.{k}.weight": v for k, v in shared.items()}


def tensors(net: Net, copy: bool = True) -> dict[str, torch.Tensor]:
    """The parameters by their released names, without a head where it is the embedding; or views of them."""
    found = {"model.embed_tokens.weight": net.embed_tokens, "model.norm.weight": net.norm}
    if hasattr(net, "lm_head"):
        found["lm_head.weight"] = net.lm_head
    for i, layer in enumerate(net.layers):
        prefix = f"model.layers.{i}."
        found[prefix + "input_layernorm.weight"] = layer.input_layernorm
        found[prefix + "post_attention_layernorm.weight"] = layer.post_attention_layernorm
        found |= {f"{prefix}self_attn.{k}": v for k, v in mixer_tensors(layer.self_attn).items()}
        if isinstance(layer.mlp, Experts):
            found |= {f"{prefix}block_sparse_moe.{k}": v for k, v in expert_tensors(layer.mlp).items()}
        else:
            found |= {f"{prefix}mlp.{k}.weight": v for k, v in layer.mlp.named_parameters()}
    if not copy:
        return {k: v.detach() for k, v in found.items()}
    return {
        k: v.detach().to("cpu", torch.float32 if k.split(".")[-1] in KEPT else torch.bfloat16).contiguous()
        for k, v in found.items()
    }


def with_head(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A tied head as a tensor of its own."""
    return {"lm_head.weight": found["model.embed_tokens.weight"].clone()} | found


def save_model(net: Net, folder: Path) -> None:
    """config.json and model.safetensors; the tokenizer is not the net's."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(with_head(tensors(net)), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it 600; a container reads it as another user
    (folder / "config.json").write_text(json.dumps(net.config | {"tie_word_embeddings": False}, indent=2) + "\n")


def split(file: Path, out: Path) -> None:
    data = file.read_bytes()
    for i in range(0, len(data), PIECE):
        (out / f"piece-{i // PIECE}").write_bytes(data[i : i + PIECE])


def join(folder: Path, file: Path) -> None:
    file.write_bytes(b"".join(p.read_bytes() for p in sorted(folder.glob("piece-*"))))


if __name__ == "__main__":
    {"split": split, "join": join}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
