"""kernels/cpu/mla*.cpp against the definition in float64, and its bits against themselves."""

import ctypes
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import mla_expanded
from kernels.cpu import build, library
from kernels.cpu.ops import pack
from tests.kernels.cases import assert_near

NAN = float("nan")
TINY = {"heads": 2, "nope": 16, "rope": 8, "rank": 24, "value": 16}  # engine/testing.py
SHIPPED = {"heads": 4, "nope": 64, "rope": 32, "rank": 96, "value": 64}
RELEASED = {"heads": 32, "nope": 128, "rope": 64, "rank": 512, "value": 128}
ODD = {"heads": 5, "nope": 10, "rope": 5, "rank": 13, "value": 7}  # nothing is a multiple of sixteen
ONE_WIDE = {"heads": 1, "nope": 3, "rope": 1, "rank": 33, "value": 33}


@dataclass(frozen=True)
class Case:
    """The last rows of a sequence. q [T,h,N+r], latents [S,R+r], kv_b [h,N+V,R]."""

    q: Tensor
    latents: Tensor
    kv_b: Tensor
    value: int

    def cut(self, start: int, stop: int) -> "Case":
        """Rows start .. stop; the sequence ends with the last of them."""
        behind = self.q.shape[0] - stop
        return replace(self, q=self.q[start:stop], latents=self.latents[: len(self.latents) - behind])

    def expected(self) -> Tensor:
        return mla_expanded(self.q.double(), self.latents.double(), self.kv_b.double(), self.value)

    def rounded(self) -> "Case":
        """Latents and weights that bf16 holds."""
        latents, kv_b = self.latents.bfloat16().float(), self.kv_b.bfloat16().float()
        return replace(self, latents=latents, kv_b=kv_b)


def make(tokens: int, length: int, sizes: dict[str, int], scale: float = 1.0) -> Case:
    heads, nope, rope, rank, value = sizes.values()
    q = torch.randn(tokens, heads, nope + rope) * scale
    kv_b = torch.randn(heads, nope + value, rank) * rank**-0.5
    return Case(q, torch.randn(length, rank + rope), kv_b, value)


def paged(latents: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """(pages, table), shuffled; what is no latent is NaN, and nothing lies behind the last page."""
    count = -(-len(latents) // page)
    table = torch.randperm(count + 2)[:count]
    filled = torch.full((count * page, latents.shape[1]), NAN)
    filled[: len(latents)] = latents
    pages = torch.full((count + 2, page, latents.shape[1]), NAN)
    pages[table] = filled.view(count, page, -1)
    return pages, table


class Kernel:
    """One compiled variant. Queries and outputs are rows apart from one another, with NaN between them."""

    def __init__(self, variant: str):
        self.library = library.open_library(build.path_of(variant))

    def threads(self, count: int) -> None:
        self.library.shiori_set_threads(count)

    def __call__(self, case: Case, page: int = 64) -> Tensor:
        tokens, heads, width = case.q.shape
        rank, nope = case.kv_b.shape[2], case.kv_b.shape[1] - case.value
        pages, table = paged(case.latents, page)
        q, o = torch.full((tokens, heads * width + 3), NAN), torch.full((tokens, heads * case.value + 5), NAN)
        q[:, : heads * width] = case.q.flatten(1)
        self.library.shiori_mla(
            q.data_ptr(), q.stride(0), pages.data_ptr(), page, table.data_ptr(), len(case.latents),
            case.kv_b.data_ptr(), tokens, heads, nope, width - nope, rank, case.value, o.data_ptr(), o.stride(0),
        )  # fmt: skip
        assert o[:, heads * case.value :].isnan().all()
        return o[:, : heads * case.value].view(tokens, heads, case.value)


@pytest.fixture
def kernels() -> list[Kernel]:
    return [Kernel(variant) for variant in library.suitable()]


@pytest.fixture
def kernel(kernels):
    yield kernels[0]
    kernels[0].threads(1)


def test_the_machine_has_a_variant():
    assert library.suitable()


@pytest.mark.parametrize("sizes", [TINY, SHIPPED, ODD, ONE_WIDE])
@pytest.mark.parametrize("tokens, length", [
    (1, 1), (1, 2), (1, 31), (1, 33), (1, 300), (1, 2048), (1, 2049), (1, 4500),
    (2, 2), (7, 300), (16, 16), (16, 2050), (12, 4100), (16, 256),
    (17, 17), (63, 63), (64, 64), (40, 700), (65, 65), (64, 513), (80, 600), (81, 600), (255, 255), (130, 1153),
])  # fmt: skip
def test_right_whatever_the_form_and_the_same_bits_on_every_instruction_set(kernels, sizes, tokens, length):
    case = make(tokens, length, sizes)
    found = [kernel(case) for kernel in kernels]
    assert_near(found[0], case.expected(), 3e-6)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("tokens, length", [(1, 1), (1, 200), (5, 200), (70, 200)])
def test_the_released_shape(kernels, tokens, length):
    case = make(tokens, length, RELEASED)
    found = [kernel(case) for kernel in kernels]
    assert_near(found[0], case.expected(), 5e-6)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("tokens, length", [(1, 70_001), (3, 40_000), (20, 5000)])
def test_a_long_way_back(kernel, tokens, length):
    """More pieces than partials are kept at once."""
    case = make(tokens, length, TINY)
    assert_near(kernel(case), case.expected(), 5e-6)


@pytest.mark.parametrize("tokens, length", [(1, 1500), (9, 1500), (90, 1500)])
def test_scores_in_the_hundreds(kernel, tokens, length):
    case = make(tokens, length, SHIPPED, scale=60.0)
    assert_near(kernel(case), case.expected(), 2e-4)


@pytest.mark.parametrize("tokens", [1, 9, 90])
def test_all_keys_alike_give_the_value_itself(kernel, tokens):
    case = make(tokens, 3000, SHIPPED)
    case = replace(case, latents=case.latents[:1].expand(3000, -1).contiguous())
    value = case.kv_b[:, SHIPPED["nope"] :] @ case.latents[0, : SHIPPED["rank"]]
    assert_near(kernel(case), value.expand(tokens, -1, -1), 3e-6)


def test_scores_that_fall_without_end_leave_the_first_key(kernel):
    """Weights of later pieces are exactly nothing, and so is what they fade to."""
    case = make(3, 5000, SHIPPED)
    case.latents[1:] = -case.latents[0] * 1000
    case.q[:] = (
        torch.einsum("hnr,r->hn", case.kv_b[:, :64], case.latents[0, :96]).repeat(3, 1, 1).repeat(1, 1, 2)[..., :96]
    )
    case.q[..., 64:] = case.latents[0, 96:]
    value = case.kv_b[:, 64:] @ case.latents[0, :96]
    for tokens in (1, 3):
        assert_near(kernel(case.cut(3 - tokens, 3)), value.expand(tokens, -1, -1), 3e-6)


@pytest.mark.parametrize("tokens", [1, 12, 150])
def test_the_bits_do_not_depend_on_threads_or_pages(kernel, tokens):
    case = make(tokens, 4500, SHIPPED)
    whole = kernel(case, page=256)
    for page in (16, 32, 512, 2048):
        assert torch.equal(kernel(case, page), whole)
    kernel.threads(2)
    for _ in range(3):
        assert torch.equal(kernel(case, page=256), whole)


@pytest.mark.parametrize("sizes", [TINY, SHIPPED])
@pytest.mark.parametrize("before", [0, 1, 37, 511, 1000])
@pytest.mark.parametrize("tokens", [197, 234, 256])
def test_any_cut_at_chunks_gives_the_same_bits(kernel, sizes, before, tokens):
    """The segment's end is few rows absorbed (197), more of them expanded (234), or none (256)."""
    case = make(tokens, before + tokens, sizes)
    whole = kernel(case)
    for cuts in ([64], [128], [192], [64, 128, 192], [64, 192]):
        edges = [0, *cuts, tokens]
        pieces = [kernel(case.cut(*edges[i : i + 2])) for i in range(len(edges) - 1)]
        assert torch.equal(torch.cat(pieces), whole), cuts


def test_a_call_longer_than_what_shares_an_expansion(kernel):
    case = make(1100, 1300, TINY)
    whole = kernel(case)
    assert_near(whole, case.expected(), 3e-6)
    assert torch.equal(torch.cat([kernel(case.cut(0, 448)), kernel(case.cut(448, 1100))]), whole)


@pytest.mark.parametrize("tokens", [10, 50, 140])
def test_a_row_sees_itself_and_what_came_before_and_nothing_else(kernel, tokens):
    case = make(tokens, 400, SHIPPED)
    before = kernel(case)
    for place in (400 - tokens, 400 - tokens // 2, 399):
        latents = case.latents.clone()
        latents[place] += 1.0
        changed = (kernel(replace(case, latents=latents)) != before).flatten(1).any(-1)
        assert changed.tolist() == [position >= place for position in range(400 - tokens, 400)]


def test_another_call_in_between_leaves_no_trace(kernel):
    """Scratch is kept between calls of other shapes, and may hold anything."""
    cases = [make(70, 130, SHIPPED), make(3, 90, RELEASED), make(1, 40, ODD), make(40, 41, TINY)]
    first = [kernel(case) for case in cases]
    for case in (*cases, *reversed(cases)):
        kernel(replace(case, latents=case.latents * NAN))
        for other, found in zip(cases, first, strict=True):
            assert torch.equal(kernel(other), found)


def test_no_rows_write_nothing():
    kernel, case = Kernel(library.suitable()[0]), make(1, 5, TINY)
    o = torch.full((4,), NAN)
    sizes = (ctypes.c_int64(n) for n in (0, *TINY.values()))
    pages, table = paged(case.latents, 16)
    kernel.library.shiori_mla(
        case.q.data_ptr(), 1, pages.data_ptr(), 16, table.data_ptr(), 5, case.kv_b.data_ptr(), *sizes, o.data_ptr(), 1
    )
    assert o.isnan().all()


class Rounded(Kernel):
    """Over pages of bf16."""

    def __call__(self, case: Case, page: int = 64) -> Tensor:
        tokens, heads, width = case.q.shape
        rank, nope = case.kv_b.shape[2], case.kv_b.shape[1] - case.value
        pages, table = paged(case.latents, page)
        pages = pages.bfloat16()
        keys = F.pad(case.kv_b[:, :nope].bfloat16(), (0, -rank % 32)).contiguous()
        values = torch.cat([pack(head.bfloat16()).data for head in case.kv_b[:, nope:]])
        q, o = torch.full((tokens, heads * width + 3), NAN), torch.full((tokens, heads * case.value + 5), NAN)
        q[:, : heads * width] = case.q.flatten(1)
        self.library.shiori_mla_rounded(
            q.data_ptr(), q.stride(0), pages.data_ptr(), page, table.data_ptr(), len(case.latents),
            case.kv_b.data_ptr(), keys.data_ptr(), values.data_ptr(), tokens, heads, nope, width - nope, rank,
            case.value, o.data_ptr(), o.stride(0),
        )  # fmt: skip
        assert o[:, heads * case.value :].isnan().all()
        return o[:, : heads * case.value].view(tokens, heads, case.value)


SIXTEENS = {"heads": 3, "nope": 16, "rope": 16, "rank": 48, "value": 48}


@pytest.fixture(params=library.suitable())
def rounded(request):
    kernel = Rounded(request.param)
    yield kernel
    kernel.threads(1)


@pytest.mark.parametrize("sizes", [SHIPPED, SIXTEENS, RELEASED])
@pytest.mark.parametrize("tokens, length", [(1, 300), (7, 300), (64, 64), (64, 513), (81, 600), (130, 1153)])
def test_pages_of_bf16(rounded, sizes, tokens, length):
    case = make(tokens, length, sizes).rounded()
    whole = tokens // 64 * 64
    found, want = rounded(case), case.expected()
    for rows, tolerance in ((slice(0, whole), 1e-2), (slice(whole, tokens), 5e-6)):  # a segment's end is not rounded
        if want[rows].numel():
            assert_near(found[rows], want[rows], tolerance)


@pytest.mark.parametrize("tokens, length", [(64, 64), (192, 700), (64, 3000)])
def test_rounding_costs_no_more_than_bf16_has(rounded, tokens, length):
    """Root mean square: queries, keys, weights and values are rounded, each by 2^-9 at most."""
    case = make(tokens, length, SHIPPED).rounded()
    found, want = rounded(case).double(), case.expected()
    assert ((found - want).square().mean() / want.square().mean()).sqrt() < 2**-8


@pytest.mark.parametrize("tokens", [1, 12, 150])
def test_the_bits_over_bf16_do_not_depend_on_threads_or_pages(rounded, tokens):
    case = make(tokens, 2500, SHIPPED).rounded()
    whole = rounded(case, page=256)
    for page in (16, 32, 512):
        assert torch.equal(rounded(case, page), whole)
    rounded.threads(2)
    for _ in range(3):
        assert torch.equal(rounded(case, page=256), whole)


@pytest.mark.parametrize("sizes", [SHIPPED, SIXTEENS])
@pytest.mark.parametrize("before", [0, 37, 511, 1000])
@pytest.mark.parametrize("tokens", [197, 256])
def test_any_cut_at_chunks_gives_the_same_bits_over_bf16(rounded, sizes, before, tokens):
    case = make(tokens, before + tokens, sizes).rounded()
    whole = rounded(case)
    for cuts in ([64], [192], [64, 128, 192]):
        edges = [0, *cuts, tokens]
        pieces = [rounded(case.cut(*edges[i : i + 2])) for i in range(len(edges) - 1)]
        assert torch.equal(torch.cat(pieces), whole), cuts


def test_over_bf16_a_row_sees_itself_and_what_came_before_and_nothing_else(rounded):
    case = make(140, 400, SHIPPED).rounded()
    before = rounded(case)
    for place in (260, 330, 399):
        latents = case.latents.clone()
        latents[place] += 1.0
        changed = (rounded(replace(case, latents=latents)) != before).flatten(1).any(-1)
        assert changed.tolist() == [position >= place for position in range(260, 400)]


def test_those_who_sum_in_pairs_have_the_same_bits_over_bf16():
    names = [name for name in library.suitable() if name != "amx"]
    case = make(130, 700, SHIPPED).rounded()
    first, *others = [Rounded(name)(case) for name in names]
    assert all(torch.equal(first, other) for other in others)
