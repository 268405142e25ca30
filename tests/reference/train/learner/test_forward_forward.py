"""The forward-forward algorithm against numpy: updates with the layers' gradients worked by hand, and class scores."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.learner.forward_forward import EPS, ForwardForward, label_rows

LR, THETA = 0.1, 1.5


def data() -> Data:
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    spec = DataSpec(modality="features", shape=(5,), classes=("a", "b", "c"), low=(-2.0,), high=(3.0,))
    return Data(spec, {"train": Split({"x": x, "y": np.array([0, 2, 1, 0])})})


def two_layers() -> nn.Module:
    torch.manual_seed(1)
    layers = OrderedDict(one=nn.Linear(5, 6), act=nn.ReLU(), two=nn.Linear(6, 4), out=nn.ReLU())
    return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=nn.Linear(4, 3)))


def labelled(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The first three values hold the label: 3 at its place, 0 elsewhere."""
    return np.concatenate([3.0 * np.eye(3)[y], x[:, 3:]], axis=1)


def unit(h: np.ndarray) -> np.ndarray:
    return h / (np.linalg.norm(h, axis=1, keepdims=True) + EPS)


def wrong_labels(y: torch.Tensor, seed: int, steps: int) -> list[np.ndarray]:
    rng = torch.Generator().manual_seed(seed)
    others = 1.0 - torch.eye(3)[y]
    return [torch.multinomial(others, 1, generator=rng).squeeze(1).numpy() for _ in range(steps)]


@pytest.mark.parametrize("collaborate", [True, False])
def test_two_steps_by_hand(begin, collaborate) -> None:
    found, base = data(), two_layers()
    w1, b1, w2, b2 = (q.detach().double().numpy() for q in base.layers.parameters())
    learner = ForwardForward(collaborate=collaborate, threshold=THETA)
    training = begin(learner, base, found, lr=LR, seed=5)
    batch = found.train.batch(slice(0, 4))
    x, y = batch.x.numpy().astype(float), batch.y.numpy()
    sign = np.repeat([1.0, -1.0], 4)
    for wrong in wrong_labels(batch.y, 5, 2):
        assert (wrong != y).all()
        u1 = unit(np.concatenate([labelled(x, y), labelled(x, wrong)]))
        h1 = np.maximum(u1 @ w1.T + b1, 0)
        u2 = unit(h1)
        h2 = np.maximum(u2 @ w2.T + b2, 0)
        g1, g2 = (h1**2).sum(1), (h2**2).sum(1)
        logit1, logit2 = (g1 + g2, g1 + g2) if collaborate else (g1, g2)
        loss = sum(np.log1p(np.exp(-sign * (z - THETA))) for z in (logit1, logit2)).mean()
        # d loss / d G = -sign sigmoid(-sign (z - theta)), d G / d h = 2 h, mean over the 8
        d1, d2 = (
            (-sign / (1 + np.exp(sign * (z - THETA))) / 8)[:, None] * 2 * h for z, h in ((logit1, h1), (logit2, h2))
        )
        w1, b1 = w1 - LR * d1.T @ u1, b1 - LR * d1.sum(0)
        w2, b2 = w2 - LR * d2.T @ u2, b2 - LR * d2.sum(0)
        assert float(training.step(batch)) == pytest.approx(loss, rel=1e-5)
    for parameter, expected in zip(training.state.model.parameters(), (w1, b1, w2, b2), strict=True):
        assert np.allclose(parameter.detach().numpy(), expected, atol=1e-5)


def test_class_scores_are_the_summed_goodness_of_each_label(begin) -> None:
    found = data()
    model = begin(ForwardForward(), two_layers(), found).state.model.eval()
    w1, b1, w2, b2 = (q.detach().numpy() for q in model.parameters())
    x = found.train.fields["x"]
    expected = np.zeros((4, 3))
    for i in range(4):
        for c in range(3):
            h1 = np.maximum(unit(labelled(x[i : i + 1], np.array([c]))) @ w1.T + b1, 0)
            h2 = np.maximum(unit(h1) @ w2.T + b2, 0)
            expected[i, c] = (h1**2).sum() + (h2**2).sum()
    assert np.allclose(model(torch.from_numpy(x)).detach().numpy(), expected, atol=1e-5)


def test_mixed_labels_are_written_as_they_are(begin) -> None:
    found = data()
    model = begin(ForwardForward(), two_layers(), found).state.model
    soft = torch.tensor([[0.25, 0.75, 0.0]])
    written = model.embed(torch.ones(1, 5), soft @ model.labels)
    assert written.tolist() == [[0.75, 2.25, 0.0, 1.0, 1.0]]
    never = Batch({"index": torch.zeros(64).long(), "x": torch.ones(64, 5), "y": torch.tensor([[1.0, 0.0, 0.0]] * 64)})
    begin(ForwardForward(), two_layers(), found).step(never)


def test_labels_in_images_take_each_channels_bounds() -> None:
    spec = DataSpec(shape=(2, 1, 2), classes=("a", "b", "c"), low=(-1.0, -2.0), high=(1.0, 2.0), scale=(1.0, 1.0))
    assert label_rows(spec).tolist() == [[1, -1, -2], [-1, 1, -2], [-1, -1, 2]]
    with pytest.raises(BadInput, match="which has 3 values; at least 4 are needed"):
        label_rows(DataSpec(shape=(3,), classes=("a", "b", "c")))


def test_other_models_are_refused() -> None:
    found, ctx = data(), Context(rng=torch.Generator(), spec=data().spec)
    convolutions = nn.Sequential(OrderedDict(layers=nn.Sequential(nn.Conv2d(1, 2, 3)), head=nn.Linear(2, 3)))
    with pytest.raises(BadInput, match=r"trains chains of dense layers .* here `layers` has Conv2d"):
        ForwardForward().fit(convolutions, found, ctx)
