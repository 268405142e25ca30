"""Algorithm 1 worked in numpy: a linear generator against a linear critic, RMSprop for both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    Around,
    BadInput,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    DataSpec,
    Gradients,
    Objective,
    Penalty,
    State,
    Terms,
)
from assay.plugins.train.learner._gan import wasserstein
from assay.plugins.train.learner.wgan import WGAN
from assay.plugins.train.optimizer.rmsprop import RMSprop
from assay.plugins.train.schedule.constant import Constant

SPEC = DataSpec(problem="generation", modality="features", shape=(2,))
LR, ALPHA, EPS, CLIP = 0.05, 0.9, 1e-8, 0.3


class Pair(nn.Module):
    """G(z) = z * scale + shift; f(x) = w . x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor([1.0, 0.5])), nn.Parameter(torch.tensor([0.2, -0.1]))
        self.critic = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
        with torch.no_grad():
            self.critic[0].weight.copy_(torch.tensor([[0.25, -0.29]]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Never(Objective):
    """The recipe's objective, which is not asked."""

    card = Card(title="test")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        raise AssertionError("asked")


def context(seed: int) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)


def terms(penalties: Any = (), around: Any = ()) -> Terms:
    def bound(methods: Any) -> list[Bound]:
        return [Bound(m, context(9), f"m.{i}") for i, m in enumerate(methods)]

    objective = Bound(Never(), context(8), "objective")
    optimizer = RMSprop(lr=LR, alpha=ALPHA, eps=EPS)
    return Terms(objective, bound(penalties), bound(around), optimizer, Constant(), total_steps=8)


def batches() -> list[Batch]:
    rng = torch.Generator().manual_seed(5)
    return [Batch({"index": torch.arange(4), "x": torch.randn(4, 2, generator=rng) + 1}) for _ in range(5)]


def trained(learner: WGAN, given: Terms) -> tuple[Pair, State, list[float]]:
    model, ctx = Pair(), context(1)
    state = learner.init(model, given, Data(SPEC, {}), ctx)
    logs = []
    for i, batch in enumerate(batches()):
        ctx.step = i
        found = learner.step(state, batch, ctx)
        assert float(found["loss"]) == -float(found["wasserstein"])
        logs.append(float(found["wasserstein"]))
    return model, state, logs


class Numbers:
    """RMSprop of one array."""

    def __init__(self, value: Any):
        self.value, self.square = np.array(value, dtype=np.float64), 0.0

    def step(self, gradient: np.ndarray) -> None:
        self.square = ALPHA * self.square + (1 - ALPHA) * gradient**2
        self.value = self.value - LR * gradient / (np.sqrt(self.square) + EPS)


@pytest.mark.parametrize("n_critic", [1, 2, 5])
def test_five_steps_by_hand(n_critic: int) -> None:
    model, _, logs = trained(WGAN(n_critic=n_critic, clip=CLIP), terms())
    rng = torch.Generator().manual_seed(1)
    scale, shift, w = Numbers([1.0, 0.5]), Numbers([0.2, -0.1]), Numbers([0.25, -0.29])
    for i, batch in enumerate(batches()):
        real = batch.x.double().numpy()
        z = torch.randn(4, 2, generator=rng).double().numpy()
        fake = z * scale.value + shift.value
        assert logs[i] == pytest.approx(float((real @ w.value).mean() - (fake @ w.value).mean()), abs=1e-5)
        w.step(fake.mean(0) - real.mean(0))
        w.value = w.value.clip(-CLIP, CLIP)
        if (i + 1) % n_critic == 0:
            z = torch.randn(4, 2, generator=rng).double().numpy()
            scale.step(-(z * w.value).mean(0))
            shift.step(-w.value)
    np.testing.assert_allclose(model.critic[0].weight.detach().numpy()[0], w.value, rtol=1e-4)
    np.testing.assert_allclose(model.scale.detach().numpy(), scale.value, rtol=1e-4)
    np.testing.assert_allclose(model.shift.detach().numpy(), shift.value, rtol=1e-4)
    assert model.critic[0].weight.abs().max() <= CLIP


def test_the_best_linear_critic_gives_the_distance_of_two_shifted_points() -> None:
    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0]

    real, fake = torch.tensor([[3.0], [5.0]]), torch.tensor([[1.0], [3.0]])
    assert float(wasserstein(Slope(), real, fake)) == 2.0


class Pull(Penalty):
    """The mean square of what the network answers to the batch."""

    card = Card(title="test")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        return ctx.forward(model, batch).square().mean(dim=1)


class Halved(Around):
    """Half of each gradient; keeps how many there were."""

    card = Card(title="test")

    def gradients(self, next: Any, state: State, batch: Batch, ctx: Context) -> Gradients:
        found = next(batch)
        state.extra["gradients"] = len(found.grads)
        return Gradients(found.losses, [None if g is None else 0.5 * g for g in found.grads])


def test_penalties_and_arounds_hold_for_the_generator() -> None:
    plain, _, first = trained(WGAN(n_critic=1, clip=CLIP), terms())
    pulled, _, second = trained(WGAN(n_critic=1, clip=CLIP), terms([Pull()]))
    assert first[0] == second[0]
    assert not torch.equal(plain.scale, pulled.scale)
    _, state, _ = trained(WGAN(n_critic=1, clip=CLIP), terms(around=[Halved()]))
    assert state.extra["gradients"] == 2  # scale and shift, not the critic's weight
    assert all(p.requires_grad for p in state.model.parameters())


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(BadInput, match="child `critic`"):
        WGAN().init(nn.Linear(2, 2), terms(), Data(SPEC, {}), context(0))
