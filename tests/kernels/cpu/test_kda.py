"""kernels/cpu/kda.cpp against the definitions in float64, and its bits against themselves."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from kernels.cpu import build, library
from kernels.kda import kda_gate, kda_recurrence
from kernels.norm import gated_rms_norm, l2_norm
from kernels.short_conv import short_conv_reference
from tests.kernels.cases import assert_near

NAN = float("nan")
EPS = 1e-5


@dataclass(frozen=True)
class Inputs:
    """What shiori_kda takes; ``state`` and ``tail`` are those before the first row."""

    raw: Tensor
    gate: Tensor
    beta: Tensor
    z: Tensor
    conv: Tensor
    A_log: Tensor
    dt_bias: Tensor
    o_norm: Tensor
    tail: Tensor
    state: Tensor

    def rows(self, start: int, stop: int) -> "Inputs":
        cut = {name: getattr(self, name)[start:stop] for name in ("raw", "gate", "beta", "z")}
        return replace(self, **cut)


def make(tokens: int, heads: int = 3, width: int = 32, taps: int = 4, rate: float = 1.0) -> Inputs:
    """Rows of a larger matrix with NaN between them. Gates from near 0 to some -10 times ``rate`` nats a token."""
    generator = torch.Generator().manual_seed(tokens + width)
    C = heads * width

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def strided(columns: int, scale: float = 1.0) -> Tensor:
        return apart(randn(tokens, columns) * scale)

    return Inputs(
        raw=strided(3 * C), gate=strided(C, 3.0), beta=strided(heads, 2.0), z=strided(C, 2.0),
        conv=randn(taps, 3 * C), A_log=torch.full((heads,), rate).log() - torch.rand(heads, generator=generator),
        dt_bias=randn(C), o_norm=randn(width), tail=randn(taps - 1, 3 * C), state=randn(heads, width, width),
    )  # fmt: skip


def apart(x: Tensor) -> Tensor:
    """The same values as the middle of wider rows that are NaN otherwise; never on a cache line's boundary."""
    memory = torch.full((x.shape[0], x.shape[1] + 7), NAN)
    memory[:, 3:-4] = x
    return memory[:, 3:-4]


def expected(x: Inputs) -> tuple[Tensor, Tensor]:
    """(o [T,C], state) by the definitions, in float64."""
    x = Inputs(*(getattr(x, name).double() for name in Inputs.__dataclass_fields__))
    heads, width, _ = x.state.shape
    mixed, _ = short_conv_reference(x.raw, x.conv.T, x.tail)
    q, k, v = mixed.view(-1, 3, heads, width).unbind(1)
    g = kda_gate(x.gate, x.A_log, x.dt_bias)
    o, state = kda_recurrence(l2_norm(q) * width**-0.5, l2_norm(k), v, g, x.beta.sigmoid(), x.state)
    return gated_rms_norm(o, x.z.reshape(o.shape), x.o_norm, EPS).flatten(1), state


class Kernel:
    """One compiled variant. Outputs lie in NaN, and are checked to be all that was written."""

    def __init__(self, variant: str):
        loaded = library.open_library(build.path_of(variant))
        self.function, self.set_threads = loaded.shiori_kda, loaded.shiori_set_threads

    def __call__(self, x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """(o, state, tail) after the rows."""
        tokens, (heads, width, _) = x.raw.shape[0], x.state.shape
        o = torch.full((tokens, heads * width + 5), NAN)
        state, tail = (
            torch.cat([torch.full((9,), NAN), s.flatten(), torch.full((9,), NAN)]) for s in (x.state, x.tail)
        )
        rows = [value for r in (x.raw, x.gate, x.beta, x.z) for value in (r.data_ptr(), r.stride(0))]
        weights = [w.data_ptr() for w in (x.conv, x.A_log, x.dt_bias, x.o_norm)]
        sizes = [tokens, heads, width, x.conv.shape[0]]
        self.function(
            *rows, *weights, EPS, *sizes, tail[9:].data_ptr(), state[9:].data_ptr(), o.data_ptr(), o.stride(0)
        )
        for around in (o[:, -5:], state[:9], state[-9:], tail[:9], tail[-9:]):
            assert around.isnan().all()
        return o[:, :-5], state[9:-9].view(x.state.shape), tail[9:-9].view(x.tail.shape)


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return [Kernel(variant) for variant in library.suitable()]


@pytest.fixture
def kernel(kernels) -> Kernel:
    return kernels[0]


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def in_pieces(kernel: Kernel, x: Inputs, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    start, outputs = 0, []
    for length in lengths:
        o, state, tail = kernel(x.rows(start, start + length))
        x, start = replace(x, state=state, tail=tail), start + length
        outputs.append(o)
    return torch.cat(outputs), x.state, x.tail


@pytest.mark.parametrize("rate", [1e-4, 1.0, 50.0])
@pytest.mark.parametrize("width", [16, 32, 48, 64, 128])
@pytest.mark.parametrize("tokens", [1, 2, 3, 31, 32, 33, 100])
def test_gives_what_the_definition_gives(kernel, tokens, width, rate):
    x = make(tokens, width=width, rate=rate)
    o, state, tail = kernel(x)
    expected_o, expected_state = expected(x)
    assert_near(o, expected_o, 5e-6)
    assert_near(state, expected_state, 2e-6)
    assert torch.equal(tail, torch.cat([x.tail, x.raw])[-3:])


@pytest.mark.parametrize("taps", [1, 2, 5])
def test_any_number_of_taps(kernel, taps):
    x = make(40, taps=taps)
    o, _, tail = kernel(x)
    assert_near(o, expected(x)[0], 5e-6)
    assert torch.equal(tail, torch.cat([x.tail, x.raw])[40:])


def test_stays_near_double_precision_along_a_long_sequence(kernel):
    x = make(2000, heads=1, rate=0.003)
    o, state, _ = kernel(x)
    assert_near(o, expected(x)[0], 2e-5)
    assert_near(state, expected(x)[1], 1e-5)


@pytest.mark.parametrize("width", [32, 48, 128])
@pytest.mark.parametrize("lengths", [[1] * 70, [1, 69], [69, 1], [2, 31, 37], [32, 38], [33, 1, 1, 35]])
def test_no_cut_changes_a_bit(kernel, width, lengths):
    x = make(70, width=width)
    assert same(in_pieces(kernel, x, lengths), kernel(x))


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("width", [16, 48, 128])
def test_every_instruction_set_gives_the_same_bits(kernels, tokens, width):
    x = make(tokens, width=width, rate=20.0)
    first, *others = [kernel(x) for kernel in kernels]
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(kernel, threads):
    x = make(70, heads=4)
    alone = kernel(x)
    kernel.set_threads(threads)
    try:
        assert same(kernel(x), alone)
    finally:
        kernel.set_threads(1)


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_gate_of_200_nats_forgets_everything(kernel, tokens):
    """e^g is exactly 0: whatever finite numbers were in the state, the same bits come out."""
    x = make(tokens)
    x.gate[0] = 200.0 + 3 * x.dt_bias.abs().max()
    x = replace(x, A_log=torch.zeros_like(x.A_log))
    assert same(kernel(x), kernel(replace(x, state=x.state * 1e30)))


def test_a_channel_may_never_forget(kernel):
    """A gate of minus infinity, or a rate of 0: e^g is exactly 1, and a key of zeros leaves the state alone."""
    x = make(5)
    C = x.gate.shape[1]
    x.gate[:] = -1e4
    x.conv[:, C : 2 * C] = 0
    assert torch.equal(kernel(x)[1], x.state)


def test_reads_only(kernel):
    x = make(40)
    before = {name: getattr(x, name).clone() for name in Inputs.__dataclass_fields__}
    kernel(x)
    assert all(torch.equal(getattr(x, name), value) for name, value in before.items())
