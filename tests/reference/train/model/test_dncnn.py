"""DnCNN layer by layer, and its residual."""

from __future__ import annotations

import torch
from torch import nn

from assay.plugins.contract import Context, DataSpec
from assay.plugins.train.model.dncnn import DnCNN

SPEC = DataSpec(problem="restoration", shape=(1, 40, 40))


def build(**params: object) -> nn.Module:
    torch.manual_seed(0)
    return DnCNN(**params).build(SPEC, Context(rng=torch.Generator(), spec=SPEC)).eval()  # type: ignore[arg-type]


def test_the_papers_network_has_its_parameters() -> None:
    """DnCNN-S: 17 convolutions with 64 channels. First 1 * 64 * 9 + 64, then 15 times 64 * 64 * 9 and a batch
    norm's 2 * 64, last 64 * 9 + 1."""
    expected = (64 * 9 + 64) + 15 * (64 * 64 * 9 + 128) + (64 * 9 + 1)
    assert sum(p.numel() for p in build(depth=17, width=64).parameters()) == expected


def test_the_receptive_field_is_2d_plus_1() -> None:
    model = build(depth=5, width=4, residual=False)
    x = torch.zeros(1, 1, 40, 40, requires_grad=True)
    model(x)[0, 0, 20, 20].backward()
    assert x.grad is not None
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert rows.min() >= 20 - 5
    assert rows.max() <= 20 + 5


def test_the_output_is_the_image_minus_the_residual() -> None:
    model, x = build(), torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(x), x - model.head(model.layers(x)))  # type: ignore[operator]
        for parameter in model.head.parameters():  # type: ignore[union-attr]
            parameter.zero_()
        torch.testing.assert_close(model(x), x)
