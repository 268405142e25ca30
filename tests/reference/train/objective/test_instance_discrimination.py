"""Instance discrimination against its formulas written out with exponentials, and its bank by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Context, Data, DataSpec, Split
from assay.plugins.train.objective.instance_discrimination import Bank, InstanceDiscrimination, noise_contrastive

SIZE, DIM = 50, 6
SPEC = DataSpec(problem="representation", shape=(DIM,), classes=("a", "b"), outputs=DIM)


def prepared(method: InstanceDiscrimination, seed: int = 0) -> tuple[Context, Bank]:
    split = Split({"x": np.zeros((SIZE, DIM), np.float32), "y": np.zeros(SIZE, np.int64)})
    ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
    bank = method.init(nn.Identity(), Data(SPEC, {"train": split, "test": split}), ctx)
    assert isinstance(bank, Bank)
    ctx.own = bank
    return ctx, bank


def batch(index: list[int], seed: int = 1) -> Batch:
    x = torch.randn(len(index), DIM, generator=torch.Generator().manual_seed(seed))
    return Batch({"index": torch.tensor(index), "x": x})


def test_the_estimation_loss_by_its_posteriors() -> None:
    rng = np.random.default_rng(0)
    positive, negative, constant, size = rng.normal(size=3), rng.normal(size=(3, 7)), 40.0, 20
    noise = 7 / size
    p, q = np.exp(positive) / constant, np.exp(negative) / constant
    expected = -np.log(p / (p + noise)) - np.log(1 - q / (q + noise)).sum(axis=1)
    found = noise_contrastive(torch.tensor(positive), torch.tensor(negative), torch.tensor(constant), size)
    assert found.numpy() == pytest.approx(expected)


def test_without_negatives_it_is_the_softmax_over_the_bank() -> None:
    method = InstanceDiscrimination(negatives=0, temperature=0.5, momentum=0.0)
    ctx, bank = prepared(method)
    before, given = bank.values.clone(), batch([3, 17])
    leaf = given.x.clone().requires_grad_()
    losses = method.loss(nn.Identity(), given.replace(x=leaf), ctx)
    unit = F.normalize(given.x, dim=1)
    share = torch.exp(unit @ before.T / 0.5)
    expected = -torch.log(share[[0, 1], [3, 17]] / share.sum(1))
    assert torch.allclose(losses, expected, atol=1e-6)
    losses.sum().backward()  # the bank has changed meanwhile; the gradient is that of the old one
    again = given.x.clone().requires_grad_()
    F.cross_entropy(F.normalize(again, dim=1) @ before.T / 0.5, given.index, reduction="sum").backward()
    assert torch.allclose(leaf.grad, again.grad, atol=1e-6)  # type: ignore[arg-type]


def test_many_negatives_have_the_softmaxs_gradient() -> None:
    """With Z exact, m large and every entry drawn alike, the estimation's gradient is nearly the softmax's."""
    bank = F.normalize(torch.randn(SIZE, DIM, generator=torch.Generator().manual_seed(2)), dim=1).double()
    f = F.normalize(torch.randn(1, DIM, generator=torch.Generator().manual_seed(3)), dim=1).double()

    def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
        return torch.autograd.grad(loss, leaf)[0].flatten()

    leaf = f.clone().requires_grad_()
    exact = gradient(F.cross_entropy(leaf @ bank.T, torch.tensor([4])), leaf)
    leaf = f.clone().requires_grad_()
    exponents = (leaf @ bank.T).repeat(1, 2000)
    constant = exponents.detach()[0, :SIZE].exp().sum()
    estimated = gradient(noise_contrastive(exponents[:, 4], exponents, constant, SIZE).sum(), leaf)
    assert torch.allclose(estimated, exact, atol=2e-3)


def test_the_bank_and_the_constant_by_hand() -> None:
    method = InstanceDiscrimination(negatives=4000, temperature=1.0, momentum=0.25, constancy=0.5)
    ctx, bank = prepared(method)
    before, given = bank.values.clone(), batch([7, 30])
    assert torch.allclose(before.norm(dim=1), torch.ones(SIZE))
    unit = F.normalize(given.x, dim=1)
    method.loss(nn.Identity(), given, ctx)
    for i, at in enumerate([7, 30]):
        assert torch.allclose(bank.values[at], F.normalize(0.25 * before[at] + 0.75 * unit[i], dim=0), atol=1e-6)
    others = [i for i in range(SIZE) if i not in (7, 30)]
    assert torch.equal(bank.values[others], before[others])
    first = float(bank.constant)
    assert first == pytest.approx(float((unit @ before.T).exp().sum(1).mean()), rel=0.05)
    method.loss(nn.Identity(), given, ctx)
    second = float((unit @ bank.values.T).exp().sum(1).mean())
    assert float(bank.constant) == pytest.approx(0.5 * first + 0.5 * second, rel=0.05)
    assert not list(bank.parameters())


def test_the_proximal_term_is_the_squared_way_from_the_bank() -> None:
    plain, proximal = InstanceDiscrimination(negatives=8), InstanceDiscrimination(negatives=8, proximal=3.0)
    (ctx, bank), (other, _) = prepared(plain), prepared(proximal)
    given = batch([1, 2])
    way = (F.normalize(given.x, dim=1) - bank.values[[1, 2]]).square().sum(1)
    difference = proximal.loss(nn.Identity(), given, other) - plain.loss(nn.Identity(), given, ctx)
    assert torch.allclose(difference, 3 * way, atol=1e-4)
    assert math.isfinite(float(difference.sum()))
