"""The mixture against numpy and decimals, its gradient, and its certificate by brute force."""

from __future__ import annotations

import decimal
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, DataSpec
from assay.plugins.predict.adaptive_smoothing import AdaptiveSmoothing, mixed

ALPHAS = [0.1, 0.5, 0.7, 0.95, 1.0]


class Says(nn.Module):
    """Answers the logits that it was given, whatever the inputs."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def predict(standard: nn.Module, robust: nn.Module, x: Tensor, alpha: float) -> Tensor:
    spec = DataSpec(shape=tuple(x.shape[1:]), classes=("a", "b", "c"))
    ctx = Context(rng=torch.Generator(), spec=spec, models={"safe": robust})
    batch = Batch({"index": torch.arange(len(x)), "x": x})
    return AdaptiveSmoothing(robust="safe", alpha=alpha).predict(standard, batch, ctx)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_is_the_logarithm_of_mixed_probabilities(alpha: float) -> None:
    rng = np.random.default_rng(0)
    g, h = 3 * rng.normal(size=(2, 20, 5))
    found = predict(Says(torch.tensor(g)), Says(torch.tensor(h)), torch.zeros(20, 1), alpha)
    np.testing.assert_allclose(found.numpy(), np.log((1 - alpha) * softmax(g) + alpha * softmax(h)), rtol=1e-12)
    np.testing.assert_allclose(found.exp().sum(1).numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_probabilities_that_underflow_still_count(alpha: float) -> None:
    """In single precision, against 50 decimals: exp(-200) is zero there, its logarithm is not."""
    g, h = [0.0, -200.0, 1000.0], [300.0, 0.0, 200.0]
    with decimal.localcontext(prec=50):
        rows = [[(decimal.Decimal(v) - decimal.Decimal(max(z))).exp() for v in z] for z in (g, h)]
        shares = [[e / sum(row) for e in row] for row in rows]
        weight = decimal.Decimal(alpha)
        expected = [float(((1 - weight) * p + weight * q).ln()) for p, q in zip(*shares, strict=True)]
    found = mixed(torch.tensor([g]), torch.tensor([h]), alpha)[0]
    assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_gradients_pass_through_both_models() -> None:
    torch.manual_seed(0)
    g, h = (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double() for _ in range(2))
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: predict(g, h, x, 0.4), x)
    (found,) = torch.autograd.grad(predict(g, h, x, 0.4)[:, 1].sum(), x)
    p, q = g(x).softmax(1), h(x).softmax(1)
    share = 0.6 * p[:, 1] + 0.4 * q[:, 1]
    (expected,) = torch.autograd.grad((0.6 * p[:, 1] / share.detach() + 0.4 * q[:, 1] / share.detach()).sum(), x)
    torch.testing.assert_close(found, expected)


def anything(rng: np.random.Generator, classes: int) -> np.ndarray:
    """Probability rows that a model under attack may answer: each class for certain, and random ones."""
    return np.concatenate([np.eye(classes), rng.dirichlet(np.full(classes, 0.3), 200)])


@pytest.mark.parametrize("alpha", [0.5, 0.55, 0.6, 0.75, 0.9])
def test_the_certificate_by_brute_force(alpha: float) -> None:
    """Where the robust model's margin is over (1 - alpha) / alpha no answer of the other changes the class; where it
    is under that, one does."""
    rng = np.random.default_rng(0)
    certified = refuted = 0
    for spread in itertools.islice(itertools.cycle([0.1, 0.5, 2.0]), 300):
        h = rng.dirichlet(np.full(4, spread)).clip(1e-9)
        h /= h.sum()
        margin = np.sort(h)[-1] - np.sort(h)[-2]
        if abs(margin - (1 - alpha) / alpha) < 1e-4:
            continue
        given = anything(rng, 4)
        answers = predict(
            Says(torch.tensor(given).clamp_min(1e-300).log()),
            Says(torch.tensor(h).log().expand(len(given), -1)),
            torch.zeros(len(given), 1),
            alpha,
        ).argmax(1)
        holds = bool((answers == int(h.argmax())).all())
        assert holds == (margin > (1 - alpha) / alpha), (h, margin)
        certified, refuted = certified + holds, refuted + (not holds)
    assert refuted > 10
    assert certified > 10 or alpha == 0.5  # there a margin of 1 is needed: none has it


def test_a_weight_below_one_half_certifies_nothing() -> None:
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    assert mixed(torch.tensor([[0.0, 1e4, 0.0]]), sure, 0.49).argmax() == 1
    assert mixed(torch.tensor([[0.0, 1e4, 0.0]]), sure, 0.51).argmax() == 0


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"predict.robust: 'safe' answers 4 classes, the model 3"):
        predict(Says(torch.zeros(1, 3)), Says(torch.zeros(1, 4)), torch.zeros(1, 1), 0.5)
    for wrong in ({}, {"robust": ""}, {"robust": "a", "alpha": 0.0}, {"robust": "a", "alpha": 1.1}):
        with pytest.raises(ValueError):
            AdaptiveSmoothing(**wrong)  # type: ignore[arg-type]
