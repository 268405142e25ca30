"""The perceptron against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from assay.plugins.contract import Context, DataSpec
from assay.plugins.train.model.mlp import MLP

SPEC = DataSpec(shape=(2, 3, 4), classes=tuple("abcde"))


def build(method: MLP) -> nn.Module:
    torch.manual_seed(0)
    return method.build(SPEC, Context(rng=torch.Generator(), spec=SPEC))


@pytest.mark.parametrize("hidden", [(), (7,), (16, 5, 9)])
def test_forward_and_widths(hidden: tuple[int, ...]) -> None:
    model = build(MLP(hidden=hidden))
    x = torch.randn(6, *SPEC.shape)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linears] == [*hidden, 5]
    assert linears[-1] is model.get_submodule("head")
    values = x.numpy().reshape(6, 24)
    for i, linear in enumerate(linears):
        values = values @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        values = np.maximum(values, 0) if i < len(hidden) else values
    np.testing.assert_allclose(model(x).detach().numpy(), values, atol=1e-5)


def test_tanh_in_place_of_relu() -> None:
    model = build(MLP(hidden=(7,), activation="tanh"))
    x = torch.randn(6, *SPEC.shape)
    first, last = (m for m in model.modules() if isinstance(m, nn.Linear))
    hidden = np.tanh(x.numpy().reshape(6, 24) @ first.weight.detach().numpy().T + first.bias.detach().numpy())
    expected = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(model(x).detach().numpy(), expected, atol=1e-5)


def test_activations_are_modules_of_their_own() -> None:
    relus = [m for m in build(MLP(hidden=(4, 4, 4))).modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 3
    assert not any(m.inplace for m in relus)


def test_a_width_below_one_is_refused() -> None:
    with pytest.raises(ValidationError):
        MLP(hidden=(8, 0))
