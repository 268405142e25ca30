"""Direct feedback alignment against two hidden layers worked by hand in numpy."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Card, Context, Data, DataSpec, Penalty, Split
from assay.plugins.train.around.clip import Clip
from assay.plugins.train.learner.direct_feedback_alignment import DirectFeedbackAlignment
from assay.plugins.train.objective.cross_entropy import CrossEntropy

LR = 0.1


def chain(widths: tuple[int, ...], outputs: int) -> nn.Module:
    torch.manual_seed(0)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (a, b) in enumerate(pairwise(widths)):
        layers[f"linear{i}"], layers[f"tanh{i}"] = nn.Linear(a, b), nn.Tanh()
    model = OrderedDict(layers=nn.Sequential(layers), head=nn.Linear(widths[-1], outputs))
    return nn.Sequential(model)


def classes() -> Data:
    rng = np.random.default_rng(0)
    split = Split({"x": rng.standard_normal((5, 4)), "y": np.array([0, 2, 1, 1, 0])})
    return Data(DataSpec(shape=(4,), modality="features", classes=("a", "b", "c")), {"train": split})


def given(data: Data) -> Batch:
    batch = data.train.batch(slice(0, 5))
    return batch.replace(x=batch.x.double())


def as_double(training) -> None:
    training.state.model.double()
    training.state.own["learner"].double()


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_two_steps_by_hand(begin) -> None:
    data, model = classes(), chain((4, 6, 5), 3)
    batch = given(data)
    x, onehot = batch.x.numpy(), np.eye(3)[batch.y.numpy()]
    w1, b1, w2, b2, w3, b3 = (p.detach().double().numpy() for p in model.parameters())
    training = begin(DirectFeedbackAlignment(), chain((4, 6, 5), 3), data, CrossEntropy(), lr=LR)
    as_double(training)
    model, own = training.state.model, training.state.own["learner"]
    f1, f2 = (own.get_buffer(name).numpy() for name in ("tanh0", "tanh1"))
    assert f1.shape == (3, 6)
    assert f2.shape == (3, 5)
    for _ in range(2):
        h1 = np.tanh(x @ w1.T + b1)
        h2 = np.tanh(h1 @ w2.T + b2)
        p = softmax(h2 @ w3.T + b3)
        loss = -np.log((p * onehot).sum(1)).mean()
        e = (p - onehot) / len(x)
        d1, d2 = (e @ f1) * (1 - h1**2), (e @ f2) * (1 - h2**2)
        w1, b1 = w1 - LR * d1.T @ x, b1 - LR * d1.sum(0)
        w2, b2 = w2 - LR * d2.T @ h1, b2 - LR * d2.sum(0)
        w3, b3 = w3 - LR * e.T @ h2, b3 - LR * e.sum(0)
        assert float(training.step(batch)) == pytest.approx(loss, rel=1e-12)
    for parameter, expected in zip(model.parameters(), (w1, b1, w2, b2, w3, b3), strict=True):
        assert np.allclose(parameter.detach().numpy(), expected, atol=1e-12)


def test_mixed_precision_takes_nearly_the_same_step(begin) -> None:
    data, moved = classes(), []
    batch = data.train.batch(slice(0, 5))
    for half in (False, True):
        training = begin(DirectFeedbackAlignment(), chain((4, 6, 5), 3), data, CrossEntropy(), lr=LR)
        if half:
            training.state.terms.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
        old = [p.detach().clone() for p in training.state.model.parameters()]
        training.step(batch.replace(x=batch.x.float()))
        moved.append(
            torch.cat([(a - b).flatten() for a, b in zip(training.state.model.parameters(), old, strict=True)])
        )
    assert moved[1].dtype == torch.float32
    assert 0 < float((moved[1] - moved[0]).norm()) < 0.03 * float(moved[0].norm())


def test_feedback_is_uniform_within_its_bound_and_drawn_from_the_seed(begin) -> None:
    data = classes()
    wide = [begin(DirectFeedbackAlignment(scale=2.0), chain((4, 900), 3), data, seed=s) for s in (0, 0, 1)]
    a, b, c = (training.state.own["learner"].get_buffer("tanh0") for training in wide)
    bound = 2 / 30
    assert a.abs().max() <= bound
    assert float(a.std()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


class WeightSquares(Penalty):
    """Half the squared weights of the first layer."""

    card = Card(title="test")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        first = model.get_submodule("layers.linear0").weight
        return first.square().sum() / 2


def test_a_weight_penalty_keeps_its_own_gradient_and_arounds_see_all(begin) -> None:
    data = classes()
    batch = given(data)
    before = chain((4, 6), 3).layers.linear0.weight.detach()
    moved = []
    for penalties in ((), (WeightSquares(),)):
        training = begin(DirectFeedbackAlignment(), chain((4, 6), 3), data, CrossEntropy(), penalties=penalties, lr=LR)
        as_double(training)
        training.step(batch)
        moved.append(training.state.model.layers.linear0.weight.detach())
    assert torch.allclose(moved[1] - moved[0], -LR * before.double())
    around = (Clip(max_norm=1e-3),)
    clipped = begin(DirectFeedbackAlignment(), chain((4, 6), 3), data, CrossEntropy(), around=around, lr=1)
    as_double(clipped)
    old = [p.detach().clone() for p in clipped.state.model.parameters()]
    clipped.step(batch)
    change = sum(float((a - b).square().sum()) for a, b in zip(clipped.state.model.parameters(), old, strict=True))
    assert change**0.5 == pytest.approx(1e-3, rel=1e-3)


def test_a_model_without_a_chain_is_refused(begin) -> None:
    model = nn.Module()
    model.layers, model.head = nn.Linear(4, 4), nn.Linear(4, 3)
    with pytest.raises(BadInput, match="whose `layers` is a chain of layers, as mlp and small_cnn have it; here it is"):
        begin(DirectFeedbackAlignment(), model, classes())
