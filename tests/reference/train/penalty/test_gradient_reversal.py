"""Gradient reversal: the gradient is -lambda times that without it, for the discriminator unchanged."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.penalty._common import feature_layer, layer_shapes
from assay.plugins.train.penalty.gradient_reversal import GradientReversal, Reversed, reversal_factor

SPEC = DataSpec(shape=(3,), classes=("a", "b"))
X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
GROUP = torch.tensor([0, 1, 2, 0, 1, 1])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(layers=nn.Linear(3, 4), act=nn.Tanh(), head=nn.Linear(4, 2)))


def data() -> Data:
    return Data(SPEC, {"train": Split({"x": X.numpy(), "group": GROUP.numpy()})})


def prepared(method: GradientReversal, model: nn.Module, progress: float) -> Context:
    ctx = Context(rng=torch.Generator(), spec=SPEC, progress=progress)
    ctx.own = method.init(model, data(), ctx)
    return ctx


def test_the_schedule() -> None:
    assert reversal_factor(0.0, 10) == 0
    assert reversal_factor(0.5, 10) == pytest.approx(2 / (1 + np.exp(-5)) - 1)
    assert reversal_factor(1.0, 10) == pytest.approx(0.9999092)
    assert reversal_factor(1.0, 0) == 0


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_gradients_against_the_same_loss_without_reversal(progress: float) -> None:
    model, method = network(), GradientReversal(weight=0.7, hidden=(5,))
    ctx = prepared(method, model, progress)
    assert [m.weight.shape for m in ctx.own if isinstance(m, nn.Linear)] == [(5, 4), (3, 5)]
    batch = Batch({"index": torch.arange(6), "x": X, "group": GROUP})
    loss = method.loss(model, batch, ctx)
    plain = F.cross_entropy(ctx.own(model.act(model.layers(X))), GROUP, reduction="none")
    torch.testing.assert_close(loss, plain)
    features, own = list(model.layers.parameters()), list(ctx.own.parameters())
    found = torch.autograd.grad(loss.mean(), [*features, *own])
    expected = torch.autograd.grad(plain.mean(), [*features, *own])
    factor = 0.7 * (2 / (1 + np.exp(-10 * progress)) - 1)
    for a, b in zip(found[:2], expected[:2], strict=True):
        torch.testing.assert_close(a, -factor * b)
    for a, b in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(a, b)


def test_each_examples_gradient_may_be_asked_for() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    losses = Reversed.apply(x, 0.5).square().sum(dim=1)
    (rows,) = torch.autograd.grad(losses, x, torch.eye(4), is_grads_batched=True)
    expected = torch.zeros(4, 4, 3)
    expected[range(4), range(4)] = -0.5 * 2 * x.detach()
    torch.testing.assert_close(rows, expected)


def test_features_are_what_the_head_sees_or_a_named_layer() -> None:
    model = network()
    assert feature_layer(model, "") == "act"
    assert feature_layer(model, "layers") == "layers"
    model.train()
    assert layer_shapes(model, data(), ["layers", "act"], "here") == {"layers": (1, 4), "act": (1, 4)}
    assert all(module.training for module in model.modules())
    with pytest.raises(BadInput, match="no layer 'stem'; it has layers, act, head"):
        prepared(GradientReversal(layer="stem"), model, 0.0)


def test_data_without_domains_are_refused() -> None:
    alone = Data(SPEC, {"train": Split({"x": X.numpy()})})
    with pytest.raises(BadInput, match="field `group`"):
        GradientReversal().init(network(), alone, Context(rng=torch.Generator(), spec=SPEC))
