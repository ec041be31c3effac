"""The router and the experts against their definitions in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import kernels
from tests.kernels.cases import assert_near
from tests.kernels.gpu.conftest import ON_GPU

from kernels.gpu import moe as ours  # isort: skip  # after the interpreter has been switched on

FP32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {FP32: 3e-6, BF16: 1.5e-2}
on_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
regimes = pytest.mark.parametrize("regime", [ours.moe_pairs, ours.moe_grouped])


@pytest.fixture
def poison(monkeypatch):
    """Fresh memory holds NaN, or in tables a number that would be taken for an expert and a row."""

    def poisoned(make):
        def made(*shape, **named):
            x = make(*shape, **named)
            return x.fill_(float("nan") if x.is_floating_point() else 1)

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


@dataclass
class Experts:
    width: int
    inner: int
    count: int
    device: torch.device
    dtype: torch.dtype = FP32

    def __post_init__(self):
        self.w13 = self.randn(self.count, 2 * self.inner, self.width, scale=self.width**-0.5)
        self.w2 = self.randn(self.count, self.width, self.inner, scale=self.inner**-0.5)

    def randn(self, *shape: int, scale: float = 1) -> Tensor:
        return (scale * torch.randn(shape, device=self.device)).to(self.dtype)

    def rows(self, count: int) -> Tensor:
        """Every second row of a larger tensor, NaN between and beside them."""
        wide = torch.full((2 * count, self.width + 8), float("nan"), device=self.device, dtype=self.dtype)
        x = wide[::2, : self.width]
        return x.copy_(self.randn(count, self.width))

    def choose(self, rows: int, top_k: int, among: int | None = None) -> tuple[Tensor, Tensor]:
        """The experts before ``among`` only, all those when there are top_k."""
        scores = torch.rand(rows, among or self.count, device=self.device)
        return scores.topk(top_k).indices.int(), torch.rand(rows, top_k, device=self.device)

    def expected(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        w1, w3 = self.w13.double().chunk(2, 1)
        return kernels.moe_reference(x.double(), indices, weights.double(), w1, w3, self.w2.double())


def tokens(regime, rows: int) -> int:
    return min(rows, 9) if regime is ours.moe_pairs and not ON_GPU else rows


@regimes
@pytest.mark.parametrize("rows", [1, 2, 17, 65])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_experts_give_what_the_definition_gives(regime, rows, dtype, device, poison):
    experts = Experts(40, 24, 11, device, dtype)
    x = experts.rows(tokens(regime, rows))
    choice = experts.choose(len(x), 3)
    y = regime(x, *choice, experts.w13, experts.w2)
    assert y.dtype == dtype
    assert_near(y, experts.expected(x, *choice), TOLERANCE[dtype])


def test_rows_longer_than_what_a_warp_holds(device, poison, monkeypatch):
    experts = Experts(140, 24, 6, device)
    x, choice = experts.rows(1), experts.choose(1, 5)
    held = ours.moe_pairs(x, *choice, experts.w13, experts.w2)
    monkeypatch.setattr(ours, "HELD", 4)
    y = ours.moe_pairs(x, *choice, experts.w13, experts.w2)
    assert torch.equal(y, held)
    assert_near(y, experts.expected(x, *choice), TOLERANCE[FP32])


@regimes
@pytest.mark.parametrize(("width", "inner"), [(35, 19), (260, 70), (64, 128)])
def test_sizes_need_not_be_multiples_of_anything(regime, width, inner, device, poison):
    experts = Experts(width, inner, 5, device)
    x = experts.rows(3)
    choice = experts.choose(3, 2)
    assert_near(regime(x, *choice, experts.w13, experts.w2), experts.expected(x, *choice), TOLERANCE[FP32])


@pytest.mark.parametrize("tile", [16, 64, 128])
@pytest.mark.parametrize("describe", [False, True])
@pytest.mark.parametrize(("rows", "top_k"), [(5, 3), (65, 3), (130, 1)])
def test_all_rows_may_choose_the_same_experts(rows, top_k, tile, describe, device, poison, monkeypatch):
    monkeypatch.setattr(ours, "tile_rows", lambda *_: tile)
    monkeypatch.setattr(ours, "DESCRIBE", describe)
    experts = Experts(40, 24, 6, device, BF16)
    x, choice = experts.rows(rows), experts.choose(rows, top_k, among=top_k)
    assert_near(ours.moe_grouped(x, *choice, experts.w13, experts.w2), experts.expected(x, *choice), TOLERANCE[BF16])


@regimes
def test_experts_that_nobody_chose_are_not_read(regime, device, poison):
    experts = Experts(40, 24, 7, device)
    x = experts.rows(9)
    choice = experts.choose(9, 2, among=4)
    expected = experts.expected(x, *choice)
    experts.w13[4:], experts.w2[4:] = float("nan"), float("nan")
    assert_near(regime(x, *choice, experts.w13, experts.w2), expected, TOLERANCE[FP32])


@regimes
def test_a_row_that_is_not_a_number_stays_alone(regime, device, poison):
    experts = Experts(40, 24, 7, device)
    x = experts.rows(9)
    choice = experts.choose(9, 2, among=4)
    expected = experts.expected(x, *choice)
    x[4] = float("nan")
    y = regime(x, *choice, experts.w13, experts.w2)
    others = torch.arange(9, device=device) != 4
    assert y[4].isnan().all()
    assert_near(y[others], expected[others], TOLERANCE[FP32])


@regimes
def test_the_result_is_added_to_out(regime, device, poison):
    experts = Experts(40, 24, 6, device)
    x, out = experts.rows(9), experts.rows(9)
    choice, before = experts.choose(9, 2), out.clone()
    assert regime(x, *choice, experts.w13, experts.w2, out) is out
    assert_near(out, before.double() + experts.expected(x, *choice), TOLERANCE[FP32])


@pytest.mark.parametrize("shared", [1, 2])
def test_shared_experts_are_known_before_the_choice(shared, device, poison):
    experts = Experts(40, 24, 6, device)
    x, (indices, weights) = experts.rows(2), experts.choose(2, 2, among=6 - shared)
    last = torch.arange(6 - shared, 6, dtype=torch.int32, device=device).expand(2, shared)
    indices, weights = torch.cat([indices, last], 1), torch.cat([weights, weights[:, :shared]], 1)
    y = ours.moe_pairs(x, indices, weights, experts.w13, experts.w2, None, shared)
    assert torch.equal(y, ours.moe_pairs(x, indices, weights, experts.w13, experts.w2))
    assert_near(y, experts.expected(x, indices, weights), TOLERANCE[FP32])


@pytest.mark.parametrize("rows", [ours.FEW_ROWS, ours.FEW_ROWS + 1])
def test_the_number_of_rows_decides(rows, device, monkeypatch):
    experts = Experts(40, 24, 6, device)
    x, called = experts.rows(rows), []
    for name in ("moe_pairs", "moe_grouped"):
        monkeypatch.setattr(ours, name, lambda *_, name=name: called.append(name))
    ours.moe(x, *experts.choose(rows, 2), experts.w13, experts.w2)
    assert called == ["moe_pairs" if rows == ours.FEW_ROWS else "moe_grouped"]


@regimes
def test_a_rows_bits_do_not_depend_on_its_neighbours(regime, device):
    """Other rows, in another number, at other places of the tiles; all of them tiles of 128 rows."""
    experts = Experts(40, 24, 3, device)
    x = experts.rows(tokens(regime, 240))
    indices, weights = experts.choose(len(x), 2)
    together = regime(x, indices, weights, experts.w13, experts.w2)
    some = torch.arange(len(x) - 1, -1, -3 if len(x) > 20 else -2, device=device)
    apart = regime(x[some], indices[some], weights[some], experts.w13, experts.w2)
    assert torch.equal(apart, together[some])


@pytest.mark.parametrize("rows", [1, 9, 700])
@pytest.mark.parametrize("tile", [16, 64, 128])
def test_pairs_are_sorted_by_expert_then_by_number(rows, tile, device, poison):
    experts, top_k = 13, 7
    indices = torch.rand(rows, experts, device=device).topk(top_k).indices.int()
    indices[indices == 5] = 12  # nobody chose 5
    order, tiles = ours._sorted(indices, experts, tile)
    chosen, expected = indices.flatten().sort(stable=True)
    assert torch.equal(order.long(), expected)
    starts = [int((chosen < e).sum()) for e in range(experts + 1)]
    laid = [[e, at, starts[e + 1]] for e in range(experts) for at in range(starts[e], starts[e + 1], tile)]
    assert tiles[: len(laid)].tolist() == laid
    assert (tiles[len(laid) :, 0] == -1).all()


def choose(x: Tensor, gate: Tensor, bias: Tensor, top_k: int, scale: float, renormalize: bool):
    return kernels.route(x.double(), gate.double(), bias.double(), top_k, scale, renormalize)


@pytest.mark.parametrize("rows", [1, 2, 17, 65])
@pytest.mark.parametrize(("width", "experts", "top_k"), [(40, 6, 3), (300, 70, 8), (512, 16, 1)])
@pytest.mark.parametrize("few", [0, 256])
def test_the_router_chooses_what_the_definition_chooses(rows, width, experts, top_k, few, device, poison, monkeypatch):
    monkeypatch.setattr(ours, "FEW_ROUTED", few)
    data = Experts(width, 1, 1, device)
    x, gate, bias = data.rows(rows), data.randn(experts, width, scale=width**-0.5), data.randn(experts, scale=0.1)
    indices, weights = ours.route(x, gate, bias, top_k, 2.446, True)
    chosen, expected = choose(x, gate, bias, top_k, 2.446, True)
    assert indices.dtype == torch.int32 and weights.dtype == FP32
    assert indices.tolist() == chosen.tolist()
    assert_near(weights, expected, 2e-6)


@pytest.mark.parametrize("shared", [1, 3])
def test_every_row_chooses_the_shared_experts_last(shared, device, poison):
    data = Experts(40, 1, 1, device)
    x, gate, bias = data.rows(9), data.randn(20, 40, scale=0.2), data.randn(20, scale=0.1)
    indices, weights = ours.route(x, gate, bias, 5, 2.446, True, shared)
    for found, expected in zip((indices, weights), ours.route(x, gate, bias, 5, 2.446, True), strict=True):
        assert torch.equal(found[:, :5], expected)
    assert indices[:, 5:].tolist() == [list(range(20, 20 + shared))] * 9 and bool((weights[:, 5:] == 1).all())


def test_a_large_bias_chooses_but_does_not_weigh(device, poison):
    data = Experts(40, 1, 1, device, BF16)
    x, gate = data.rows(9), data.randn(5, 40, scale=0.2)
    bias = torch.tensor([0.0, 100.0, 0.0, 50.0, 0.0], device=device, dtype=BF16)
    indices, weights = ours.route(x, gate, bias, 2, 0.5, False)
    assert indices.tolist() == [[1, 3]] * 9
    assert_near(weights, 0.5 * torch.sigmoid(x.double() @ gate.double().T)[:, [1, 3]], 1e-5)


@pytest.mark.parametrize("rows", [1, 9])
def test_of_equal_scores_the_smaller_index_is_chosen(rows, device, poison):
    """Experts 2, 5, 7 and 3, 4 are the same; the second kind is the better one."""
    data = Experts(40, 1, 1, device)
    x = data.rows(rows).fill_(0.25)
    gate = torch.full((9, 40), -1.0, device=device)
    gate[[2, 5, 7]], gate[[3, 4]] = 0.01, 0.02
    indices, weights = ours.route(x, gate, torch.zeros(9, device=device), 4, 1.0, True)
    assert indices.tolist() == [[3, 4, 2, 5]] * rows
    assert_near(weights.sum(-1), torch.ones(rows, device=device), 1e-6)


def test_a_row_that_is_not_a_number_chooses_experts_that_exist(device, poison):
    data = Experts(40, 1, 1, device)
    x, gate = data.rows(3), data.randn(6, 40)
    x[1] = float("nan")
    indices, weights = ours.route(x, gate, torch.zeros(6, device=device), 4, 1.0, True)
    assert ((indices >= 0) & (indices < 6)).all()
    assert weights[1].isnan().all() and weights[[0, 2]].isfinite().all()


@pytest.mark.parametrize("rows", [1, 3, 20, pytest.param(300, marks=on_gpu)])
def test_the_routers_bits_do_not_depend_on_the_number_of_rows(rows, device):
    width, experts = (2304, 256) if ON_GPU else (600, 20)
    data = Experts(width, 1, 1, device, BF16)
    x, gate, bias = data.rows(400 if ON_GPU else 24), data.randn(experts, width, scale=0.02), data.randn(experts)
    together = ours.route(x, gate, bias, 8, 2.446, True)
    apart = ours.route(x[-rows:], gate, bias, 8, 2.446, True)
    for found, expected in zip(apart, together, strict=True):
        assert torch.equal(found, expected[-rows:])


@pytest.fixture(scope="module")
def large():
    torch.manual_seed(0)
    return Experts(2304, 1024, 256, torch.device("cuda"), BF16)


@on_gpu
@pytest.mark.parametrize("rows", [1, 2, ours.FEW_ROWS, 17, 65, 255, 257, 1000, 8192])
@pytest.mark.parametrize("among", [8, 40, 256])
def test_the_released_size(rows, among, large, poison):
    x, choice = large.randn(rows, large.width), large.choose(rows, 8, among)
    y = ours.moe(x, *choice, large.w13, large.w2)
    some = torch.tensor(sorted({0, rows // 3, rows - 1}), device="cuda")
    w1, w3 = large.w13.chunk(2, 1)
    expected = [
        sum(
            weight * (large.w2[e].double() @ (torch.nn.functional.silu(w1[e].double() @ row) * (w3[e].double() @ row)))
            for e, weight in zip(choice[0][t].tolist(), choice[1][t].double(), strict=True)
        )
        for t, row in zip(some.tolist(), x[some].double(), strict=True)
    ]
    assert y.isfinite().all()
    assert_near(y[some], torch.stack(expected), TOLERANCE[BF16])


@on_gpu
@regimes
def test_the_released_sizes_bits_do_not_depend_on_the_tiles(regime, large):
    """Alone, in tiles of 16 and in tiles of 64 and 128."""
    x, choice = large.randn(1700, large.width), large.choose(1700, 8, 40)
    together = regime(x, *choice, large.w13, large.w2)
    for rows in (1, 9, 100, 255, 260, 700):
        assert torch.equal(regime(x[:rows], *(c[:rows] for c in choice), large.w13, large.w2), together[:rows]), rows


@on_gpu
@pytest.mark.parametrize("rows", [1, 64, 1000])
def test_the_large_router(rows, large, poison):
    x, gate = large.randn(rows, large.width), large.randn(256, large.width, scale=0.02)
    bias = large.randn(256, scale=0.01)
    weights = ours.route(x, gate, bias, 8, 2.446, True)[1]
    assert_near(weights, choose(x, gate, bias, 8, 2.446, True)[1], 1e-4)


@on_gpu
@pytest.mark.parametrize("rows", [1, 64])
def test_a_graph_replays_it(rows, large):
    x, gate, bias = large.randn(rows, large.width), large.randn(256, large.width, scale=0.02), large.randn(256)

    def layer() -> Tensor:
        return ours.moe(x, *ours.route(x, gate, bias, 8, 2.446, True), large.w13, large.w2)

    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer()
    x.copy_(large.randn(rows, large.width))
    graph.replay()
    assert torch.equal(y, layer())
