"""Deep supervision by hand in numpy."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.model.mlp import MLP
from assay.plugins.train.model.resnet import ResNet
from assay.plugins.train.model.small_cnn import SmallCNN
from assay.plugins.train.model.vit import ViT
from assay.plugins.train.penalty.deep_supervision import DeepSupervision, averaged, hidden_layers, squared_hinge

IMAGES = DataSpec(shape=(1, 8, 8), classes=("a", "b", "c"))
SPEC = DataSpec(shape=(3,), classes=("a", "b", "c"))
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)).astype(np.float32), np.array([0, 2, 1, 1, 0])


def context(progress: float = 0.0) -> Context:
    return Context(rng=torch.Generator(), spec=SPEC, progress=progress)


def prepared(method: DeepSupervision, model: nn.Module, progress: float = 0.0) -> Context:
    ctx = context(progress)
    ctx.own = method.init(model, Data(SPEC, {"train": Split({"x": X, "y": Y})}), ctx)
    return ctx


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP(hidden=(8, 8, 8)).build(SPEC, context())


def batch(**more: torch.Tensor) -> Batch:
    return Batch({"index": torch.arange(5), "x": torch.from_numpy(X), "y": torch.from_numpy(Y), **more})


def cross_entropies(model: nn.Module, own: nn.Module) -> list[np.ndarray]:
    """Of each companion, by numpy from the weights."""
    found, out = [], X.astype(float)
    for linear, head in zip([model.layers.linear1, model.layers.linear2], own, strict=True):
        out = np.maximum(out @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), 0)
        logits = out @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        found.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), Y])
    return found


def test_the_sum_of_companions_and_its_decay():
    model, method = network(), DeepSupervision(weight=0.3)
    assert method.reads(model) == ("layers.relu1", "layers.relu2")
    for progress in (0.0, 0.25, 1.0):
        ctx = prepared(method, model, progress)
        found = method.loss(model, batch(), ctx)
        expected = 0.3 * (1 - progress) * sum(cross_entropies(model, ctx.own))
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-7)


def test_a_companion_below_the_threshold_stops():
    model = network()
    plain = prepared(DeepSupervision(), model)
    first, second = cross_entropies(model, plain.own)
    low, high = sorted([first, second], key=np.mean)
    threshold = float((low.mean() + high.mean()) / 2)
    found = DeepSupervision(weight=1.0, threshold=threshold).loss(model, batch(), plain)
    assert float(found.mean()) == pytest.approx(high.mean() - threshold, rel=1e-4)
    stopped, going = (plain.own[0], plain.own[1]) if low is first else (plain.own[1], plain.own[0])
    grads = torch.autograd.grad(found.mean(), [stopped.weight, going.weight])
    assert not grads[0].any()
    assert grads[1].any()


def test_labelled_examples_alone():
    model, method = network(), DeepSupervision(weight=1.0)
    ctx = prepared(method, model)
    labelled = torch.tensor([True, False, True, True, False])
    found = method.loss(model, batch(labelled=labelled), ctx)
    expected = sum(cross_entropies(model, ctx.own))[labelled.numpy()].mean()
    assert float(found.mean()) == pytest.approx(expected, rel=1e-5)
    assert not found[~labelled].any()


def test_squared_hinge_by_hand():
    output = torch.tensor([[2.0, 0.5, 1.7], [0.0, 0.0, 0.0]])
    found = squared_hinge(output, torch.tensor([0, 1]))
    np.testing.assert_allclose(found, [0.7**2, 2.0], rtol=1e-6)  # 1 - 1.5 < 0; 1 - 0.3 = 0.7


def test_hidden_layers_end_before_the_next_weights():
    assert hidden_layers(SmallCNN(width=8).build(IMAGES, context())) == [
        "layers.stage1",
        "layers.stage2",
        "layers.shrink",
        "layers.stage4",
    ]
    assert hidden_layers(ResNet(depth=8).build(IMAGES, context())) == ["layers.stem", "layers.stage1", "layers.stage2"]
    vit = ViT(dim=8, depth=2, heads=2).build(IMAGES, context())
    assert hidden_layers(vit) == ["layers.embed", "layers.block1", "layers.block2"]
    with pytest.raises(BadInput, match="no hidden layer but the last"):
        DeepSupervision().reads(MLP(hidden=(4,)).build(SPEC, context()))
    with pytest.raises(BadInput, match="no layer 'conv9'"):
        prepared(DeepSupervision(layers=("conv9",)), network())


def test_places_are_averaged():
    maps, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 3)
    torch.testing.assert_close(averaged(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(averaged(tokens), tokens.mean(dim=1))
    model = nn.Sequential(OrderedDict(layers=nn.Identity(), head=nn.Linear(3, 3)))
    assert hidden_layers(model) == []
