"""What fits is computed from what is free, and what does not fit is refused with the numbers."""

import re
from pathlib import Path

import pytest
import torch

from engine import DeviceError, DoesNotFit, Engine, EngineConfig, ModelConfig, load_model
from engine import device as devices
from engine.config import ConfigError
from engine.device import Memory
from engine.memory import AUTO, page_bytes, require_weights, sized, slot_bytes
from engine.pools import Pools
from engine.testing import SHIPPED, TINY, save_random_checkpoint, tiny_model
from engine.weights import expected_inventory

RELEASED = ModelConfig.from_folder(Path(__file__).parent / "data" / "48b")
GPU, CPU, BF16 = torch.device("cuda"), torch.device("cpu"), torch.bfloat16
GB = 10**9


@pytest.fixture
def free(monkeypatch):
    """free(bytes, total) is what the device says from then on."""

    def say(count, total=150 * GB):
        monkeypatch.setattr(devices, "memory", lambda device: Memory(count, total))

    return say


def fit(slots=AUTO, tokens=AUTO, model=RELEASED, device=GPU, dtype=BF16):
    return sized(EngineConfig(), slots, tokens, model, device, dtype)


def need(config, model=RELEASED, dtype=BF16):
    return config.max_slots * slot_bytes(model, dtype) + config.pages * page_bytes(model, config.page_tokens, dtype)


def storages(x):
    """Of every tensor that ``x`` holds, once: {address: bytes}."""
    if isinstance(x, torch.Tensor):
        return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}
    inner = x.values() if isinstance(x, dict) else x if isinstance(x, tuple) else vars(x).values()
    held = [storages(y) for y in inner if isinstance(y, torch.Tensor | dict | tuple) or hasattr(y, "__dict__")]
    return {at: size for found in held for at, size in found.items()}


@pytest.mark.parametrize("fields", [TINY, SHIPPED], ids=["tiny", "shipped"])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_slot_and_a_page_take_what_the_pools_take(fields, dtype):
    model = ModelConfig.from_dict(fields)
    config = EngineConfig(max_slots=3, max_tokens=5 * 256)
    assert need(config, model, dtype) == sum(storages(Pools(model, config, CPU, dtype, dtype)).values())


def test_the_48b_on_an_h200(free):
    """98 GB of weights leave 50: a tenth of the device stays, an eighth of the rest is slots."""
    assert slot_bytes(RELEASED, BF16) == pytest.approx(20 * (32 * 128 * 128 * 4 + 3 * 12288 * 2), rel=1e-3)
    assert page_bytes(RELEASED, 256, BF16) == pytest.approx(256 * 7 * 576 * 2, rel=1e-3)
    free(50 * GB)
    config = fit()
    assert config.max_slots == 100 and config.max_tokens == pytest.approx(3.80e6, rel=0.01)
    assert 34.9 * GB < need(config) <= 35 * GB


@pytest.mark.parametrize("model", [RELEASED, ModelConfig.from_dict(SHIPPED)], ids=["48b", "shipped"])
@pytest.mark.parametrize("gigabytes", [4, 8, 16, 24, 48, 80, 140])
@pytest.mark.parametrize("slots, tokens", [(AUTO, AUTO), (16, AUTO), (AUTO, 65_536)])
def test_what_is_sized_fits_and_leaves_little(free, model, gigabytes, slots, tokens):
    free(gigabytes * GB, 20 * GB)
    config = fit(slots, tokens, model)
    left = (gigabytes - 2) * GB
    assert need(config, model) <= left
    assert config.max_slots >= 4 and config.max_tokens >= 4096
    assert slots in (AUTO, config.max_slots) and tokens in (AUTO, config.max_tokens)
    more = need(config, model) + page_bytes(model, 256, BF16) if tokens == AUTO else need(config, model)
    more += slot_bytes(model, BF16) if slots == AUTO and tokens else 0
    assert more > left or config.max_tokens == 16 * model.model_max_length or config.max_slots == 256


def test_numbers_that_are_set_stay(free):
    free(50 * GB)
    config = fit(slots=7, tokens=100_000)
    assert (config.max_slots, config.max_tokens) == (7, 100_000)
    with pytest.raises(ConfigError, match="max_slots is -1"):
        fit(slots=-1, tokens=100_000)


def test_what_does_not_fit_is_refused_with_its_numbers(free):
    free(20 * GB)
    with pytest.raises(DoesNotFit) as refusal:
        fit(slots=16, tokens=2_000_000)
    says = str(refusal.value)
    assert "16 slots of 43.42 MB and 7,812 pages of 2.06 MB (2,000,000 tokens) need 16.82 GB" in says
    assert "20.00 GB are free on cuda, 15.00 GB of them stay" in says
    assert "SHIORI_ENGINE_TOKENS or SHIORI_ENGINE_SLOTS (auto: what fits)" in says
    fits = int(re.search(r"beside 16 slots ([\d,]+) tokens fit", says)[1].replace(",", ""))
    assert fit(16, fits).max_tokens == fits
    with pytest.raises(DoesNotFit):
        fit(16, fits + 256)


@pytest.mark.parametrize(
    "count, slots, tokens", [(15.1, AUTO, AUTO), (10, AUTO, AUTO), (16, 200, AUTO), (16, AUTO, 10**6)]
)
def test_too_little_for_the_least(free, count, slots, tokens):
    free(int(count * GB))
    with pytest.raises(DoesNotFit, match=r"slots of 43\.42 MB and .* are free on cuda"):
        fit(slots, tokens)


def test_weights_are_refused_before_they_are_read(free, tmp_path):
    inventory = expected_inventory(RELEASED)
    free(80 * GB)
    with pytest.raises(DoesNotFit, match=r"weights take 98\.25 GB in bfloat16; 80\.00 GB are free on cuda"):
        require_weights(inventory, set(), GPU, BF16)
    with pytest.raises(DoesNotFit, match=r"weights take 196.49 GB in float32; .* or bfloat16 \(SHIORI_ENGINE_DTYPE\)"):
        require_weights(inventory, set(), GPU, torch.float32)
    folder, heard = save_random_checkpoint(tmp_path), []
    free(10**5)
    with pytest.raises(DoesNotFit, match=r"weights take .* 0\.10 MB are free on cpu"):
        load_model(folder, progress=lambda *numbers: heard.append(numbers))
    assert heard == []


def test_far_too_much_for_this_machine():
    """Really measured; with pools made lazily, as a CPU's are, nothing else would say no before it is too late."""
    config = EngineConfig(max_slots=16, max_tokens=10**12)
    with pytest.raises(
        DoesNotFit, match=r"pages of .* need [\d,.]+ GB; [\d,.]+ GB are free on cpu\. Now beside 16 slots"
    ):
        Engine(tiny_model(), config)
    free, total = devices.memory(CPU)
    assert 0 < free <= total


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu():
    """What torch holds and nobody uses counts as free; what is sized can be taken, and a page more cannot be set."""
    before = devices.memory(GPU).free
    x = torch.empty(2**30, dtype=torch.uint8, device=GPU)
    assert devices.memory(GPU).free == pytest.approx(before - 2**30, abs=2**26)
    del x
    assert devices.memory(GPU).free == pytest.approx(before, abs=2**26)
    config = fit()
    pools = Pools(RELEASED, config, GPU, BF16, BF16)
    left = devices.memory(GPU)
    assert left.total * 0.09 < left.free < left.total * 0.11 + 16 * 2**20 or config.max_tokens == 2**24
    del pools
    with pytest.raises(DoesNotFit, match="are free on cuda"):
        fit(16, 2 * config.max_tokens + 10**7)


# what is free


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_around_the_process(tmp_path, version):
    """/a has no limit, /a/b has 8 GB of which 5 are used, 2 of those by the file cache; the root has 10, 7 used."""
    top = tmp_path / ("memory" if version == 1 else ".")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    prefix = "total_" if version == 1 else ""
    for folder, limit, used in ((".", 10, 7), ("a/b", 8, 5)):
        group = top / folder
        group.mkdir(parents=True, exist_ok=True)
        (group / names[0]).write_text(f"{limit * GB}\n")
        (group / names[1]).write_text(f"{used * GB}\n")
    stat = f"anon 3\n{prefix}inactive_file {GB}\n{prefix}active_file {GB}\n"
    (top / "a/b/memory.stat").write_text(stat)
    if version == 2:
        (top / "a/memory.max").write_text("max\n")
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/x\n7:memory:/a/b\n" if version == 1 else "0::/a/b\n")
    assert list(devices._control_groups(tmp_path, own)) == [(8 * GB, 3 * GB), (10 * GB, 7 * GB)]
    own.write_text("0::/elsewhere\n" if version == 2 else "7:memory:/docker/0123\n")
    assert list(devices._control_groups(tmp_path, own)) == [(10 * GB, 7 * GB)]


def test_the_tightest_group_counts(monkeypatch):
    monkeypatch.setattr(devices, "_control_groups", lambda: [(8 * GB, 3 * GB), (2 * GB, GB // 2)])
    assert devices.memory(CPU) == (GB * 3 // 2, 2 * GB)


def test_devices_that_do_not_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="sees no CUDA device"):
        devices.usable("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(DeviceError, match=r"Tesla T4 has compute capability 7\.5; the kernels need 8\.0 or higher"):
        devices.usable("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert devices.usable("cuda") == GPU and devices.usable("cpu") == CPU
