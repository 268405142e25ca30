"""A network and a few examples, as an evaluator gets them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.plugins.contract import Batch, Context, Data, DataSpec, Evaluator, Split, Subject

Value = Callable[..., float]


def squares(prediction: Tensor, batch: Batch) -> Tensor:
    """Half the squared error of each example."""
    return (prediction - batch.y).square().flatten(1).sum(1) / 2


def entropy(prediction: Tensor, batch: Batch) -> Tensor:
    """The cross-entropy of each example."""
    return functional.cross_entropy(prediction, batch.y, reduction="none")


def subject(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Subject:
    """A network that is trained no more, and its training split; classes have the cross-entropy."""
    spec = DataSpec(problem="regression", modality="features", shape=x.shape[1:], outputs=3)
    train = Split({"x": x.astype(np.float32), "y": y})
    return Subject(
        model=network,
        predict=lambda batch: network(batch.x),
        spec=spec,
        data={"main": Data(spec, {"train": train, "test": train.replace(x=100 * train.fields["x"])})},
        loss=entropy if y.dtype.kind == "i" else squares,
        trajectory=lambda: iter([("epoch-00000", network)]),
    )


@pytest.fixture
def value() -> Value:
    """An evaluator's one number on a network and all of the examples."""

    def ask(evaluator: Evaluator, network: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
        given = subject(network, x, y)
        (number,) = evaluator.evaluate(
            given, Context(rng=torch.Generator().manual_seed(0), spec=given.spec)
        ).numbers.values()
        return number.value

    return ask


@pytest.fixture
def given() -> Callable[..., Subject]:
    """Makes the subject of a network and examples."""
    return subject
