"""Between the engine's tensors and the vault's bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from engine import Engine, Exported, Snapshot
from services.vault.drafts import State
from services.vault.manifest import Layout, Manifest, Rung
from services.vault.vault import Vault

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def state_of(exported: Exported) -> State:
    layers, count, width = exported.latents.shape
    tensors = sorted(exported.tensors.items())
    return State(
        position=exported.position,
        digest=exported.digest.hex(),
        first=exported.position - count,
        latents=_bytes(exported.latents).reshape(layers, count, width * exported.latents.element_size()),
        tensors=tuple(_bytes(tensor).reshape(-1) for _, tensor in tensors),
        layout=Layout(
            (layers, width, _NAMES[exported.latents.dtype]),
            tuple((name, _NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors),
        ),
        tags=tuple((tag.position, tag.digest.hex()) for tag in exported.tags),
    )


def restore(engine: Engine, call: Any, vault: Vault, tenant: str, manifest: Manifest, rung: Rung) -> int:
    """A sequence that stands at the rung. `call` runs a function on the engine's thread; the latents are put from
    this one: nobody looks at the sequence's pages before it is finished, and a step under way holds nobody up.

    Raises what the vault raises (Lost: nothing of it is used) and SnapshotMismatch; nothing is left behind then.
    """
    assert manifest.layout is not None
    dtype = _DTYPES[manifest.layout.latents[2]]
    seq: int = call(lambda engine: engine.begin_restore(rung.position))

    beside = _stream_beside(engine)

    def put(first: int, rows: np.ndarray) -> None:
        with beside():
            engine.put_latents(seq, first, torch.from_numpy(rows).view(dtype))

    try:
        flat = vault.load(tenant, manifest, rung, put)
        tensors = {
            name: torch.from_numpy(data).view(_DTYPES[kind]).view(shape)
            for (name, kind, shape), data in zip(manifest.layout.tensors, flat, strict=True)
        }
        snapshot = Snapshot(rung.position, bytes.fromhex(rung.digest), tensors)
        call(lambda engine: engine.finish_restore(seq, snapshot))
    except BaseException:
        call(lambda engine: engine.close(seq))
        raise
    return seq


def _stream_beside(engine: Engine) -> Callable[[], AbstractContextManager[Any]]:
    """On a GPU, a stream of this call's own: on the engine's, each page would wait for the step under way."""
    if engine.model.device.type != "cuda":
        return nullcontext
    stream = torch.cuda.Stream(engine.model.device)
    return lambda: torch.cuda.stream(stream)


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """Not copied. Numpy from here on: torch would start a team of OpenMP threads in every RPC thread, and on a busy
    machine they wait for one another ten times longer than a page takes."""
    flat: np.ndarray = tensor.contiguous().view(torch.uint8).numpy()
    return flat
