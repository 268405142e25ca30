"""Masked image modelling by hand: patches cut by loops, the network run part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.model.vit import ViT
from assay.plugins.train.objective._tokens import cut
from assay.plugins.train.objective.masked_image_modelling import MaskedImageModelling, Painter

SPEC = DataSpec(shape=(2, 4, 6), classes=("a", "b"))
SIZE, PATCHES = 2, 6


def images() -> Tensor:
    return torch.rand(3, *SPEC.shape, generator=torch.Generator().manual_seed(0))


def prepared(seed: int) -> tuple[nn.Module, MaskedImageModelling, Context, Painter]:
    torch.manual_seed(0)
    ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
    model = ViT(patch=SIZE, dim=8, depth=2, heads=2).build(SPEC, ctx)
    method = MaskedImageModelling(ratio=0.5)
    split = Split({"x": images().numpy(), "y": np.zeros(3, np.int64)})
    ctx.own = method.init(model, Data(SPEC, {"train": split}), ctx)
    assert isinstance(ctx.own, Painter)
    return model, method, ctx, ctx.own


def cut_by_loops(x: Tensor) -> Tensor:
    """Each patch's pixels, channel by channel, row by row."""
    found = []
    for image in x:
        for top in range(0, SPEC.shape[1], SIZE):
            found += [
                image[:, top : top + SIZE, left : left + SIZE].flatten() for left in range(0, SPEC.shape[2], SIZE)
            ]
    return torch.stack(found).reshape(len(x), PATCHES, -1)


def test_patches_are_cut_in_rows() -> None:
    assert torch.equal(cut(images(), PATCHES), cut_by_loops(images()))


def test_it_is_the_absolute_error_of_what_was_hidden() -> None:
    model, method, ctx, own = prepared(7)
    x = images()
    found = method.loss(model, Batch({"index": torch.arange(3), "x": x}), ctx)
    order = torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(7)).argsort(1)
    hidden = order[:, : PATCHES // 2]
    layers = model.get_submodule("layers")
    pixels = cut_by_loops(x)
    tokens = layers.embed.linear(pixels)
    for image, places in enumerate(hidden):
        tokens[image, places] = own.missing
    tokens = torch.cat([layers.embed.token.expand(3, -1, -1), tokens], dim=1) + layers.embed.position
    tokens = layers.norm(layers.block2(layers.block1(tokens)))
    for image, places in enumerate(hidden):
        errors = [(own.pixels(tokens[image, 1 + at]) - pixels[image, at]).abs() for at in places.tolist()]
        assert float(found[image]) == pytest.approx(float(torch.cat(errors).mean()), rel=1e-5)


def test_what_is_hidden_is_not_seen() -> None:
    """Pixels of hidden patches reach the loss as its target alone: the network's answer does not change with them."""
    model, method, ctx, own = prepared(3)
    hidden = torch.rand(3, PATCHES, generator=torch.Generator().manual_seed(3)).argsort(1)[:, : PATCHES // 2]
    x = images().requires_grad_()
    painted: list[Tensor] = []
    own.pixels.register_forward_hook(lambda module, args, output: painted.append(output))
    method.loss(model, Batch({"index": torch.arange(3), "x": x}), ctx)
    (gradient,) = torch.autograd.grad(painted[0].sum(), x)
    reached = cut_by_loops(gradient).abs().sum(2) > 0
    expected = torch.ones(3, PATCHES, dtype=torch.bool).scatter(1, hidden, False)
    assert torch.equal(reached, expected)


def test_it_refuses_a_network_without_patches() -> None:
    split = Split({"x": images().numpy(), "y": np.zeros(3, np.int64)})
    ctx = Context(rng=torch.Generator(), spec=SPEC)
    with pytest.raises(BadInput, match=r"masked_image_modelling needs tokens of patches, as vit has; train\.model"):
        MaskedImageModelling().init(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), Data(SPEC, {"train": split}), ctx)
