"""From files to places: cut, joined, converted, several at a time; what is not whole is refused by the file's name."""

import json
import os
import random
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine import CheckpointError, ModelConfig, build, check_inventory, load_model
from engine.build import build_model
from engine.checkpoint import Checkpoint
from engine.config import ModelConfig as Config
from engine.reading import PIECE, Part, Reader, ReadingError, pieces
from engine.testing import TINY, random_tensors, save_random_checkpoint, save_sparse_checkpoint

RELEASED = Path(__file__).parent / "data" / "48b"
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
DTYPES = [torch.bfloat16, torch.float32, torch.float64, torch.float16]


class Bytes:
    """A file in memory that notes who reads, and breaks where it is told to."""

    def __init__(self, content, breaks_at=None):
        self.path, self.content, self.breaks_at = Path("bytes"), content, breaks_at
        self.threads, self.reading, self.together = set(), 0, 0

    def read(self, start, into):
        self.threads.add(threading.current_thread().name)
        self.reading += 1
        self.together = max(self.together, self.reading)
        time.sleep(0.001)
        into[:] = self.content[start : start + len(into)]
        self.reading -= 1
        if self.breaks_at is not None and start <= self.breaks_at < start + len(into):
            raise ReadingError("bytes breaks here")


def tensors_in_a_file(count, seed, breaks_at=None):
    """Tensors of all dtypes one after another, at addresses their dtypes like or not; parts with places of bf16."""
    draw, at, parts, expected = random.Random(seed), 0, [], []
    content = b""
    for _ in range(count):
        x = torch.randn(draw.randrange(0, 900)).to(draw.choice(DTYPES))
        expected.append(x)
        content += x.view(torch.uint8).numpy().tobytes()
    file = Bytes(content, breaks_at)
    for x in expected:
        parts.append(
            Part(file, at, x.dtype, torch.full(x.shape, torch.nan, dtype=draw.choice([x.dtype, torch.bfloat16])))
        )
        at += x.nbytes
    return file, parts, expected


@pytest.mark.parametrize("seed", range(5))
def test_pieces_cover_every_part_once(seed):
    _, parts, _ = tensors_in_a_file(60, seed)
    random.Random(seed).shuffle(parts)
    found = list(pieces(parts, 1024))
    assert all(sum(part.nbytes for part in piece) <= 1024 for piece in found)
    for piece in found:
        assert all((part.start - piece[0].start) % part.dtype.itemsize == 0 for part in piece)
        assert all(b.start == a.start + a.nbytes for a, b in pairwise(piece))
    flat = [part for piece in found for part in piece]
    assert [p.start for p in flat] == sorted(p.start for p in flat)
    assert sum(p.nbytes for p in flat) == sum(p.nbytes for p in parts)
    assert len(found) < len(flat), "nothing was joined"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threads", [1, 3])
def test_places_get_the_numbers_of_the_file(threads, device):
    file, parts, expected = tensors_in_a_file(60, 7)
    parts = [replace(part, place=part.place.to(device)) for part in parts]
    reader = Reader(torch.device(device), threads, size=2048)
    assert sum(reader.read(parts)) == len(file.content)
    reader.close()
    for part, x in zip(parts, expected, strict=True):
        assert torch.equal(part.place.cpu(), x.to(part.place.dtype))
    assert len(file.threads) == threads and (file.together > 1) == (threads > 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_is_told_when_nobody_writes_any_more(threads):
    file, parts, _ = tensors_in_a_file(60, 7, breaks_at=9000)
    reader = Reader(torch.device("cpu"), threads, size=2048)
    with pytest.raises(ReadingError, match="breaks here"):
        list(reader.read(parts))
    before = [part.place.clone() for part in parts]
    time.sleep(0.02)
    assert all(torch.equal(a.nan_to_num(), part.place.nan_to_num()) for a, part in zip(before, parts, strict=True))
    file.breaks_at = None
    assert sum(reader.read(parts)) == len(file.content), "the buffers are not all back"
    reader.close()


# the true shape


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """The 48B's checkpoint with numbers in a few tensors, holes elsewhere."""
    folder = tmp_path_factory.mktemp("48b")
    save_sparse_checkpoint(folder, json.loads((RELEASED / "config.json").read_text()))
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name in MARKED:
        _mark(folder / places[name], name)
    yield folder
    for file in folder.glob("*.safetensors"):
        file.unlink()


LAYER = "model.layers.3."
MARKED = [
    "model.layers.2.self_attn.A_log",
    "model.layers.2.self_attn.q_conv1d.weight",
    LAYER + "self_attn.kv_b_proj.weight",
    LAYER + "block_sparse_moe.gate.weight",
    *(f"{LAYER}block_sparse_moe.experts.{e}.{w}.weight" for e in (0, 17, 255) for w in ("w1", "w2", "w3")),
]


def _mark(file, name):
    with file.open("r+b") as out:
        length = int.from_bytes(out.read(8), "little")
        first, last = json.loads(out.read(length))[name]["data_offsets"]
        out.seek(8 + length + first)
        noise = torch.randn((last - first) // 4).view(torch.uint8).numpy()
        noise[1::2] &= 0xBF  # no number beyond 2 in any dtype
        out.write(noise.tobytes())


def test_a_layer_out_of_the_released_format(sparse):
    """98 GB of files; here the mixers of four layers and 24 experts of one."""
    config = ModelConfig.from_folder(sparse)
    with Checkpoint(sparse) as checkpoint:
        found = checkpoint.inventory()
        check_inventory(config, found)
        assert len(found) == 20_493
        names = [n for n in found if n.startswith(tuple(f"model.layers.{i}.self_attn." for i in range(4)))]
        few = {*range(23), 255}
        names += [f"{LAYER}block_sparse_moe.experts.{e}.{w}.weight" for e in few for w in ("w1", "w2", "w3")]
        kept = {n: torch.empty(found[n][1], dtype=found[n][0]) for n in (*MARKED, *names) if n in MARKED}
        dump = torch.empty(max(torch.Size(found[n][1]).numel() for n in names), dtype=torch.bfloat16)
        places = {n: kept[n] if n in kept else dump[: torch.Size(found[n][1]).numel()] for n in {*names, *MARKED}}
        anonymous, began = _anonymous(), time.perf_counter()
        checkpoint.read(places)
        seconds, grown = time.perf_counter() - began, _anonymous() - anonymous
    size = sum(p.shape.numel() * found[n][0].itemsize for n, p in places.items())
    print(f"  {size / 1e9:.2f} GB at {size / 1e9 / seconds:.1f} GB/s, {grown / 1e6:.0f} MB")
    assert size > 5e8
    assert grown < 3 * PIECE + dump.nbytes + sum(x.nbytes for x in kept.values())
    weights = json.loads((sparse / "model.safetensors.index.json").read_text())["weight_map"]
    for name, x in kept.items():
        with safe_open(sparse / weights[name], framework="pt") as file:
            assert torch.equal(file.get_tensor(name), x), name
            assert x.any()


def _anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


# a model


@pytest.fixture
def folder(tmp_path):
    return save_random_checkpoint(tmp_path / "model", FEW)


FEW = TINY | {"num_experts": 24}


def test_experts_lie_as_they_are_used(folder):
    """Gate above up in one block, and equal to what a plain mapping gives."""
    model = load_model(folder, dtype=torch.bfloat16, compiled_kernels=False)
    tensors = load_file(folder / "model.safetensors")
    plain = build_model(Config.from_dict(FEW), tensors, torch.device("cpu"), torch.bfloat16, False)
    for i in (1, 2, 3):
        moe, name = model.layers[i].ffn, f"model.layers.{i}.block_sparse_moe.experts"
        assert moe.w3.data_ptr() == moe.w1[0, -1].data_ptr() + moe.w1.shape[2] * 2
        assert moe.w1.untyped_storage().nbytes() == moe.w1.nbytes + moe.w3.nbytes
        for e in range(24):
            for w in ("w1", "w2", "w3"):
                assert torch.equal(getattr(moe, w)[e], tensors[f"{name}.{e}.{w}.weight"])
                assert torch.equal(getattr(moe, w)[e], getattr(plain.layers[i].ffn, w)[e])


@pytest.mark.parametrize("device", DEVICES)
def test_a_place_with_gaps(folder, device):
    """Columns and rows of wider tensors, a dimension of one with an odd stride: what lies around them stays."""
    tensors = load_file(folder / "model.safetensors")
    name, other, one = (f"model.layers.0.mlp.{x}_proj.weight" for x in ("up", "down", "gate"))
    wide = torch.full((96, 130), torch.nan, device=device)
    rows = torch.full((3, 2, 64, 96), torch.nan, dtype=torch.bfloat16, device=device)
    three = torch.full((96, 3, 64), torch.nan, dtype=torch.float64, device=device)
    with Checkpoint(folder, device) as checkpoint:
        checkpoint.read({name: wide[:, 1:65], other: rows[1:2, 1], one: three[:, 1:2].squeeze(1)})
    wide, rows, three = wide.cpu(), rows.cpu(), three.cpu()
    assert torch.equal(wide[:, 1:65], tensors[name].float()) and wide[:, 65:].isnan().all() and wide[:, 0].isnan().all()
    assert torch.equal(rows[1, 1], tensors[other]) and rows[[0, 2]].isnan().all() and rows[1, 0].isnan().all()
    assert torch.equal(three[:, 1], tensors[one].double()) and three[:, [0, 2]].isnan().all()


@pytest.mark.parametrize("shared", [1, 2])
def test_experts_as_the_triton_kernels_have_them(tmp_path, shared, monkeypatch):
    """Gate above up, the shared ones behind: read to where they stay, or copied."""
    pytest.importorskip("engine.gpu")
    fields = FEW | {"num_shared_experts": shared}
    config, cpu = Config.from_dict(fields), torch.device("cpu")
    folder = save_random_checkpoint(tmp_path / "model", fields)
    tensors, inner = load_file(folder / FILE), config.moe_intermediate_size
    w = {n.removeprefix("model.layers.1.block_sparse_moe."): x for n, x in tensors.items()}
    gate, up = (w[f"shared_experts.{x}_proj.weight"].split(inner) for x in ("gate", "up"))
    one = [(w[f"experts.{e}.w1.weight"], w[f"experts.{e}.w3.weight"]) for e in range(24)]
    w13 = torch.stack([torch.cat(pair) for pair in (*one, *zip(gate, up, strict=True))])
    down = w["shared_experts.down_proj.weight"].split(inner, 1)
    w2 = torch.stack([*(w[f"experts.{e}.w2.weight"] for e in range(24)), *down])
    monkeypatch.setattr(build, "_runs_triton", lambda *_: True)
    for model in (
        load_model(folder, dtype=torch.bfloat16),
        build_model(config, tensors, cpu, torch.bfloat16),
    ):
        found = model.layers[1].ffn
        assert torch.equal(found.w13, w13) and torch.equal(found.w2, w2)
        assert torch.equal(found.router, w["gate.weight"]) and found.shared == shared
        assert torch.equal(found.bias, w["gate.e_score_correction_bias"])


def test_progress_is_told_to_the_last_byte(folder):
    heard = []
    load_model(folder, progress=lambda done, total: heard.append((done, total)))
    total = sum(x.nbytes for x in random_tensors(Config.from_dict(FEW), 0).values())
    assert {of for _, of in heard} == {total} and heard[-1][0] == total
    assert all(a[0] < b[0] for a, b in pairwise(heard))


# what is not whole

FILE = "model.safetensors"


def rewrite(path, edit):
    path.write_bytes(edit(path.read_bytes()))


def header(edit):
    """Changes the header of a file and leaves the numbers."""

    def change(content):
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length])
        edit(fields)
        text = json.dumps(fields).encode()
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return change


def shrunk(fields):
    fields["model.norm.weight"]["shape"] = [1]


def overlapping(fields):
    fields["model.norm.weight"]["data_offsets"] = [0, 128]


def shapeless(fields):
    del fields["model.norm.weight"]["shape"]


@pytest.mark.parametrize(
    "edit, says",
    [
        (lambda c: c[:-1], "cut short: .* by its header"),
        (lambda c: c[: len(c) // 2], "cut short"),
        (lambda c: c[:1000], "header is not all there"),
        (lambda c: b"", "header is not all there"),
        (lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:0".ljust(130), "pointer of Git LFS"),
        (lambda c: c[:8] + b"x" + c[9:], "header is not JSON"),
        (lambda c: c + b"abc", "3 bytes more"),
        (header(shrunk), r"BF16 \[1\] in 128 bytes"),
        (header(overlapping), "does not begin where the tensor before it ends"),
        (header(shapeless), "entry of its header"),
    ],
)
def test_a_damaged_file_is_refused_by_name(folder, edit, says):
    rewrite(folder / FILE, edit)
    with pytest.raises(CheckpointError, match=rf"model/model\.safetensors is damaged: .*{says}.*: copy or download"):
        load_model(folder)


def test_a_file_that_is_not_there_or_not_to_be_opened(folder, tmp_path):
    (folder / FILE).rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist: copy or download this file"):
        load_model(folder)
    (folder / FILE).mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be opened"):
        load_model(folder)


def test_an_index_that_is_none(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json cannot be read as an index"):
        load_model(folder)


def test_a_tensor_in_two_files(folder):
    tensors = load_file(folder / FILE)
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, folder / "more.safetensors")
    files = {"a": FILE, "b": "more.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is both in .*more\.safetensors"):
        load_model(folder)


def test_a_file_that_shrinks_while_it_is_read(folder):
    with Checkpoint(folder) as checkpoint:
        name, (dtype, shape) = list(checkpoint.inventory().items())[-1]
        os.truncate(folder / FILE, (folder / FILE).stat().st_size // 2)
        with pytest.raises(CheckpointError, match=r"model/model\.safetensors became shorter .*nothing was loaded"):
            checkpoint.read({name: torch.empty(shape, dtype=dtype)})


def test_files_are_closed_whatever_happens(folder):
    def open_files():
        return [
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{n}")
        ]

    load_model(folder)
    with pytest.raises(CheckpointError, match="missing tensors"):
        rewrite(folder / FILE, lambda c: _without_norm(folder))
        load_model(folder)
    rewrite(folder / FILE, lambda c: c[:-1])
    with pytest.raises(CheckpointError):
        load_model(folder)
    assert not [path for path in open_files() if path.startswith(str(folder))]


def _without_norm(folder):
    tensors = load_file(folder / FILE)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "other")
    return (folder / "other").read_bytes()
