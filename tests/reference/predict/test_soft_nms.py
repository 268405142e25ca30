"""Soft-NMS against hand-worked decays and a plain greedy suppression."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.predict.soft_nms import SoftNMS

SPEC = DataSpec(problem="detection", shape=(1, 8, 8), classes=("a", "b"))
# Two boxes of one class that share 6 of 10 + 10 - 6 pixels, one that shares nothing, and one of another class.
ROWS = torch.tensor(
    [
        [0, 0.8, 0, 0, 10, 1],
        [0, 0.9, 4, 0, 14, 1],
        [0, 0.5, 50, 0, 60, 1],
        [1, 0.7, 4, 0, 14, 1],
    ]
)


class Fixed(nn.Module):
    """Answers the same detections to every image."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.expand(len(x), -1, -1)


def scores(rows: Tensor, **fields: object) -> list[float]:
    batch = Batch({"index": torch.arange(2), "x": torch.zeros(2, 1, 8, 8)})
    found = SoftNMS(**fields).predict(Fixed(rows), batch, Context(rng=torch.Generator(), spec=SPEC))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[..., [0, 2, 3, 4, 5]], rows.expand(2, -1, -1)[..., [0, 2, 3, 4, 5]])
    return [float(v) for v in found[0, :, 1]]


def test_decays_by_hand() -> None:
    u = 6 / 14
    assert scores(ROWS, decay="linear") == pytest.approx([0.8 * (1 - u), 0.9, 0.5, 0.7])
    assert scores(ROWS, decay="linear", overlap=0.5) == pytest.approx([0.8, 0.9, 0.5, 0.7])
    assert scores(ROWS, decay="gaussian") == pytest.approx([0.8 * math.exp(-u * u / 0.5), 0.9, 0.5, 0.7])
    assert scores(ROWS, decay="hard") == pytest.approx([0.0, 0.9, 0.5, 0.7])
    assert scores(ROWS, decay="linear", floor=0.6) == pytest.approx([0.0, 0.9, 0.0, 0.7])


def test_what_is_taken_next_depends_on_decayed_scores() -> None:
    """Three boxes in a row: the middle one, decayed by the first, comes after the last and is decayed by it too."""
    rows = torch.tensor([[0, 0.9, 0, 0, 10, 1], [0, 0.8, 4, 0, 14, 1], [0, 0.7, 8, 0, 18, 1]])
    near, far = 6 / 14, 2 / 18
    last = 0.7 * math.exp(-far * far / 0.5)
    middle = 0.8 * math.exp(-near * near / 0.5)
    assert middle < last
    expected = [0.9, middle * math.exp(-near * near / 0.5), last]
    assert scores(rows, decay="gaussian") == pytest.approx(expected)


def greedy(rows: Tensor, threshold: float) -> list[float]:
    """Which detections greedy suppression keeps, written with loops over pixels' sides."""
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -float(rows[i, 1])):
        for j in kept:
            (a, _, x0, y0, x1, y1), (b, _, u0, v0, u1, v1) = rows[i].tolist(), rows[j].tolist()
            both = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
            if a == b and both >= threshold * ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - both):
                break
        else:
            kept.append(i)
    return [float(rows[i, 1]) if i in kept else 0.0 for i in range(len(rows))]


def test_hard_decay_is_greedy_suppression() -> None:
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        low, size = 20 * torch.rand(25, 2, generator=rng), 4 + 8 * torch.rand(25, 2, generator=rng)
        kind = torch.randint(2, (25, 1), generator=rng).float()
        rows = torch.cat([kind, 0.1 + 0.9 * torch.rand(25, 1, generator=rng), low, low + size], dim=1)
        assert scores(rows, decay="hard", overlap=0.3) == pytest.approx(greedy(rows, 0.3))


def test_scores_keep_their_gradient() -> None:
    rows = ROWS.clone().requires_grad_()
    batch = Batch({"index": torch.arange(1), "x": torch.zeros(1, 1, 8, 8)})
    found = SoftNMS().predict(Fixed(rows), batch, Context(rng=torch.Generator(), spec=SPEC))
    found[..., 1].sum().backward()
    assert rows.grad is not None
    assert rows.grad[:, 1].tolist() == pytest.approx([math.exp(-((6 / 14) ** 2) / 0.5), 1, 1, 1])
