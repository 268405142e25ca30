"""Forward gradients against numpy: one step by hand, and their mean over many directions against the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Card, Context, Data, Objective, Penalty
from assay.plugins.train.learner import _common
from assay.plugins.train.learner.forward_gradient import ForwardGradient, differentiate

LR = 0.1


def linear() -> nn.Linear:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -1.0]]))
        model.bias.fill_(0.25)
    return model


class Learned(Penalty):
    """A penalty with a weight of its own: (v - 3)^2 / 2."""

    card = Card(title="test")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        own = nn.Module()
        own.v = nn.Parameter(torch.tensor(1.0))
        return own

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        assert ctx.own is not None
        return (ctx.own.v - 3).pow(2) / 2


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng).numpy() for shape in shapes]


@pytest.mark.parametrize("directions", [1, 2])
def test_two_steps_by_hand(begin, small, directions) -> None:
    training = begin(ForwardGradient(directions=directions), linear(), small, penalties=(Learned(),), lr=LR, seed=7)
    batch = small.train.batch(slice(0, 3))
    x, y = batch.x.numpy(), batch.y.numpy()
    w, b, v = np.array([[0.5, -1.0]]), np.array([0.25]), np.array(1.0)
    draws = iter(drawn(7, *[(1, 2), (1,), ()] * 2 * directions))
    for _ in range(2):
        error = x @ w.T + b - y
        loss = (error**2).sum(1).mean() / 2 + (v - 3) ** 2 / 2
        gradient = [error.T @ x / 3, error.mean(0), v - 3]
        estimate = [0.0, 0.0, 0.0]
        for _ in range(directions):
            d = [next(draws) for _ in range(3)]
            slope = sum((g * part).sum() for g, part in zip(gradient, d))
            estimate = [e + slope * part / directions for e, part in zip(estimate, d)]
        assert float(training.step(batch)) == pytest.approx(loss, rel=1e-5)
        w, b, v = w - LR * estimate[0], b - LR * estimate[1], v - LR * estimate[2]
    model, own = training.state.model, training.state.own["penalty.0"]
    assert np.allclose(model.weight.detach().numpy(), w, atol=1e-5)
    assert np.allclose(model.bias.detach().numpy(), b, atol=1e-5)
    assert float(own.v) == pytest.approx(float(v), abs=1e-5)


def test_the_mean_over_directions_is_the_gradient_and_the_variance_is_known(begin, small) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    state = begin(ForwardGradient(), model, small).state
    batch = small.train.batch(slice(0, 3))
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=small.spec)
    true = torch.cat([g.flatten() for g in _common.differentiate(state, batch, None).grads])
    each = torch.stack(
        [torch.cat([g.flatten() for g in differentiate(state, batch, None, False, ctx, 1).grads]) for _ in range(4000)]
    )
    deviation = each.std(0) / len(each) ** 0.5
    assert ((each.mean(0) - true).abs() < 5 * deviation).all()
    assert torch.cosine_similarity(each.mean(0), true, dim=0) > 0.99
    # for v ~ N(0, I), Var[(g . v) v_i] = |g|^2 + g_i^2
    assert torch.allclose(each.var(0), true.square().sum() + true.square(), rtol=0.2)


def test_rows_of_examples_weigh_up_to_the_batchs(begin, small) -> None:
    state = begin(ForwardGradient(), linear(), small).state
    batch, weights = small.train.batch(slice(0, 3)), torch.tensor([1.0, 0.0, 2.0])

    def estimate(apart: bool) -> list[Tensor]:
        ctx = Context(rng=torch.Generator().manual_seed(3), spec=small.spec)
        return [g for g in differentiate(state, batch, weights, apart, ctx, 2).grads if g is not None]

    for rows, whole in zip(estimate(True), estimate(False), strict=True):
        assert rows.shape == (3, *whole.shape)
        assert torch.allclose(rows.mean(0), whole, atol=1e-6)
        assert not rows[1].any()


class Whole(Objective):
    """The batch's mean loss: one number."""

    card = Card(title="test")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.y).square().mean()


def test_one_number_for_a_batch_has_no_rows(begin, small) -> None:
    state = begin(ForwardGradient(), linear(), small, objective=Whole()).state
    batch, ctx = small.train.batch(slice(0, 3)), Context(rng=torch.Generator(), spec=small.spec)
    assert all(g is not None for g in differentiate(state, batch, None, False, ctx, 1).grads)
    with pytest.raises(BadInput, match="gradients of single examples were asked for, and the losses are one number"):
        differentiate(state, batch, None, True, ctx, 1)


class OnlyBackward(torch.autograd.Function):
    """The square, without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return grad


class Opaque(Objective):
    card = Card(title="test")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return OnlyBackward.apply(output).sum(1)


def test_what_has_no_forward_derivative_is_refused(begin, small) -> None:
    training = begin(ForwardGradient(), linear(), small, objective=Opaque())
    with pytest.raises(BadInput, match="forward_gradient cannot differentiate this training"):
        training.step(small.train.batch(slice(0, 3)))
