"""The Dice loss by hand."""

from __future__ import annotations

import pytest
import torch

from assay.plugins.contract import Batch
from assay.plugins.train.objective.dice import Dice


def test_two_images_by_hand() -> None:
    first = torch.tensor([[0.8, 0.4, 0.1]])  # the second class's probability at three pixels
    p = torch.stack([torch.stack([1 - first, first]), torch.stack([1 - first, first])])
    batch = Batch({"y": torch.tensor([[[1, 1, 0]], [[0, 0, 0]]])})
    found = Dice(smooth=0.5).score(p.log(), batch)
    squares = [0.2**2 + 0.6**2 + 0.9**2, 0.8**2 + 0.4**2 + 0.1**2]
    one = ((2 * 0.9 + 0.5) / (squares[0] + 1 + 0.5) + (2 * 1.2 + 0.5) / (squares[1] + 2 + 0.5)) / 2
    other = ((2 * 1.7 + 0.5) / (squares[0] + 3 + 0.5) + 0.5 / (squares[1] + 0.5)) / 2
    assert found.tolist() == pytest.approx([1 - one, 1 - other])


def test_a_sure_and_right_answer_has_no_loss() -> None:
    y = torch.tensor([[[0, 1], [2, 1]]])
    logits = 100 * torch.nn.functional.one_hot(y, 4).movedim(-1, 1).float()
    assert float(Dice().score(logits, Batch({"y": y}))) == pytest.approx(0.0, abs=1e-6)
