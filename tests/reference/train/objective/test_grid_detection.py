"""The grid detector's loss: cells assigned by hand, and the focal and the box loss written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from assay.plugins._boxes import iou, matched
from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.model.grid_detector import Decode
from assay.plugins.train.objective.grid_detection import GridDetection, assign, focal

SPEC = DataSpec(problem="detection", shape=(1, 16, 16), classes=("a", "b"))


class Given(nn.Module):
    """Answers given raw outputs (N, 6, 4, 4), decoded."""

    def __init__(self, raw: torch.Tensor):
        super().__init__()
        self.raw = nn.Parameter(raw)
        self.head = nn.Identity()
        self.decode = Decode(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decode(self.head(self.raw))
        return out


def test_cells_belong_to_the_smallest_box_whose_middle_is_near() -> None:
    centres = torch.tensor([[2.0, 2.0], [6.0, 2.0], [10.0, 2.0], [6.0, 10.0]])
    boxes = torch.tensor([[[0, 0, 0, 12, 12], [1, 4, 0, 8, 4], [-1, -1, -1, -1, -1]]]).float()
    # The middles are (6, 6) and (6, 2). Within 5 pixels of (6, 6) lie all four; the second is in both boxes.
    assert assign(boxes, centres, reach=5.0).tolist() == [[0, 1, 0, 0]]
    assert assign(boxes, centres, reach=2.0).tolist() == [[-1, 1, -1, -1]]


def test_a_cell_decodes_to_distances_from_its_centre() -> None:
    raw = torch.zeros(1, 6, 4, 4)
    raw[0, :, 1, 2] = torch.tensor([0.0, math.log(2), math.log(0.5), 0.0, -1.0, 1.0])
    found = Decode(4, 4)(raw)[0, 6]
    # Row 1, column 2: the centre is (10, 6); distances 4, 8, 2 and 4 pixels.
    expected = [1, 1 / (1 + math.exp(-1)), 10 - 4, 6 - 8, 10 + 2, 6 + 4]
    assert found.tolist() == pytest.approx(expected)


def test_the_loss_written_out() -> None:
    rng = torch.Generator().manual_seed(0)
    model = Given(torch.randn(1, 6, 4, 4, generator=rng))
    boxes = torch.tensor([[[1, 4, 4, 9, 10], [-1, -1, -1, -1, -1]]]).float()
    batch = Batch({"index": torch.arange(1), "x": torch.zeros(1, 1, 16, 16), "boxes": boxes})
    found = GridDetection().loss(model, batch, Context(rng=torch.Generator(), spec=SPEC))
    cells = model.raw[0].flatten(1).T.tolist()
    held = [5]  # its centre is (6, 6); that of the cell below, (6, 10), lies on the box's edge
    total = 0.0
    for k, cell in enumerate(cells):
        for kind in (0, 1):
            p = 1 / (1 + math.exp(-cell[4 + kind]))
            if k in held and kind == 1:
                total -= 0.25 * (1 - p) ** 2 * math.log(p)
            else:
                total -= 0.75 * p**2 * math.log(1 - p)
        if k in held:
            x, y = 2 + 4 * (k % 4), 2 + 4 * (k // 4)
            a, b, c, d = (4 * math.exp(v) for v in cell[:4])
            x0, y0, x1, y1 = x - a, y - b, x + c, y + d
            both = max(0, min(x1, 9) - max(x0, 4)) * max(0, min(y1, 10) - max(y0, 4))
            total -= math.log(both / ((x1 - x0) * (y1 - y0) + 30 - both))
    assert float(found) == pytest.approx(total / len(held), rel=1e-4)


def test_an_image_without_objects_has_the_background_alone() -> None:
    raw = torch.zeros(1, 6, 4, 4)
    batch = Batch({"index": torch.arange(1), "x": torch.zeros(1, 1, 16, 16), "boxes": torch.full((1, 2, 5), -1.0)})
    found = GridDetection().loss(Given(raw), batch, Context(rng=torch.Generator(), spec=SPEC))
    assert float(found) == pytest.approx(32 * 0.75 * 0.25 * math.log(2), rel=1e-5)
    without = focal(torch.tensor([0.3]), torch.tensor([1.0]), 0.25, 0.0)
    assert float(without) == pytest.approx(0.25 * math.log(1 + math.exp(-0.3)), rel=1e-5)


def test_overlaps_and_matches_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 0, 0]])
    b = torch.tensor([[2.0, 2, 6, 6], [0, 0, 4, 4], [8, 8, 9, 9]])
    assert torch.allclose(iou(a, b), torch.tensor([[4 / 28, 1.0, 0], [0, 0, 0]]))
    boxes = torch.tensor([[[0, 0, 0, 4, 4], [0, 1, 0, 5, 4], [-1, -1, -1, -1, -1]]]).float()
    detections = torch.tensor(
        [[[0, 0.9, 0, 0, 4, 4], [0, 0.8, 0, 0, 4, 4], [1, 0.7, 0, 0, 4, 4], [0, 0.1, 1, 0, 5, 4]]]
    )
    # The second takes the second box (IoU 12 / 20); another class finds nothing; the last is not confident.
    assert [int(v) for part in matched(detections, boxes) for v in part] == [2, 3, 2]
