"""SIREN against the formula and the distributions that its paper derives."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import nn

from assay.plugins.contract import Context, DataSpec
from assay.plugins.train.model.siren import Siren

SPEC = DataSpec(problem="field", modality="coordinates", shape=(5, 2), outputs=3, low=(-1.0,), high=(1.0,))


def build(**params: object) -> nn.Module:
    torch.manual_seed(0)
    return Siren(**params).build(SPEC, Context(rng=torch.Generator(), spec=SPEC))  # type: ignore[arg-type]


def test_forward_written_out() -> None:
    model = build(hidden=(4, 6), omega=7.0)
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5, 2)).astype(np.float32)
    h = np.sin(7 * (x @ weights["layers.linear1.weight"].T + weights["layers.linear1.bias"]))
    h = np.sin(7 * (h @ weights["layers.linear2.weight"].T + weights["layers.linear2.bias"]))
    expected = h @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_weights_are_uniform_within_the_papers_bounds() -> None:
    model = build(hidden=(400, 300, 300), omega=30.0)
    bounds = {
        "layers.linear1": 1 / 2,
        "layers.linear2": math.sqrt(6 / 400) / 30,
        "layers.linear3": math.sqrt(6 / 300) / 30,
        "head": math.sqrt(6 / 300) / 30,
    }
    for name, bound in bounds.items():
        weight = model.get_submodule(name).weight.detach().numpy().ravel()  # type: ignore[union-attr]
        assert np.abs(weight).max() <= bound
        assert stats.kstest(weight, "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3, name


def test_activations_keep_their_distribution_through_depth() -> None:
    """Weights of variance 2 / (n omega^2) double the mean square: of sin(wide) it is 1/2, so that the next sine
    gets about variance 1, and sin(N(0, 1)) has (1 - e^-2) / 2 = 0.43 however deep (biases aside)."""
    model = build(hidden=(512,) * 5)
    with torch.no_grad():
        for layer in model.layers:  # type: ignore[union-attr]
            if isinstance(layer, nn.Linear):
                layer.bias.zero_()
        h = torch.rand(1, 4000, 2) * 2 - 1
        for i in range(1, 6):
            before = 30 * model.layers.get_submodule(f"linear{i}")(h)  # type: ignore[union-attr]
            if i > 1:
                assert abs(float(before.square().mean() / (2 * h.square().mean())) - 1) < 0.1, i
            h = torch.sin(before)
        assert abs(float(h.var()) - 0.43) < 0.06
