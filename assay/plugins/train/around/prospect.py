"""Distributionally robust training on a spectral risk, with the variance of its gradients reduced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor, nn

from assay.plugins._networks import trained_parameters
from assay.plugins.contract import (
    Around,
    BadInput,
    Batch,
    Card,
    Context,
    Data,
    Field,
    Gradients,
    NextGradients,
    Split,
    State,
)
from assay.plugins.train.around._common import frozen_statistics

GIB = 2**30
Spectrum = Literal["superquantile", "extremile", "exponential"]


def risk_spectrum(kind: Spectrum, parameter: float, n: int) -> np.ndarray:
    """The weights (n,), from the smallest loss to the largest, that sum to 1: the integrals over the n-ths of
    [0, 1] of a density whose distribution function is one of these, t being a loss's rank.

    superquantile: (t - p)+ / (1 - p); extremile: t^p; exponential: (e^(p t) - 1) / (e^p - 1).
    """
    t = np.arange(n + 1) / n
    if kind == "superquantile":
        return np.diff((t - parameter).clip(min=0) / (1 - parameter))
    if kind == "extremile":
        return np.diff(t**parameter)
    return np.diff(np.expm1(parameter * t) / np.expm1(parameter))


def robust_weights(losses: np.ndarray, spectrum: np.ndarray, shift_cost: float) -> np.ndarray:
    """The q (n,) that maximises q' losses - shift_cost * n / 2 * |q - 1/n|^2 over the convex hull of all
    orders of the spectrum: a projection onto it, by isotonic regression."""
    n = len(losses)
    order = np.argsort(losses, kind="stable")
    free = losses[order] / (shift_cost * n) + 1 / n
    weights = np.empty(n)
    weights[order] = free - isotonic_regression(free - spectrum).x
    return weights


def flat_rows(grads: Sequence[Tensor | None], model: nn.Module) -> Tensor:
    """The examples' gradients (N, parameters) of the model, zero where a parameter has none."""
    size = next(len(g) for g in grads if g is not None)
    rows = [
        p.new_zeros(size, p.numel()) if g is None else g.flatten(1) for p, g in zip(trained_parameters(model), grads)
    ]
    return torch.cat(rows, dim=1)


def added(grads: Sequence[Tensor | None], flat: Tensor, model: nn.Module) -> list[Tensor | None]:
    """The gradients plus the flat one (parameters,) of the model."""
    answer = list(grads)
    parts = flat.split([p.numel() for p in trained_parameters(model)])
    for i, (p, part) in enumerate(zip(trained_parameters(model), parts, strict=True)):
        grad = grads[i]
        answer[i] = None if grad is None else grad + part.view_as(p)
    return answer


class Tables(nn.Module):
    """Of each training example its last loss and gradient, its weight now (`q`) and at its last gradient (`rho`)."""

    losses: Tensor
    q: Tensor
    rho: Tensor
    gradients: Tensor
    total: Tensor
    filled: Tensor

    def __init__(self, split: Split, size: int):
        super().__init__()
        n = len(split)
        self.split = split
        for name in ("losses", "q", "rho"):
            self.register_buffer(name, torch.zeros(n, dtype=torch.float64))
        self.register_buffer("gradients", torch.zeros(n, size))
        self.register_buffer("total", torch.zeros(size))  # rho @ gradients
        self.register_buffer("filled", torch.zeros((), dtype=torch.bool))

    def write(self, index: Tensor, losses: Tensor, rows: Tensor, rho: Tensor) -> None:
        """What was found of the examples `index` (N,); `total` follows."""
        which = index.unique()  # an example that is in a batch twice counts once
        before = self.rho[which].to(self.total) @ self.gradients[which]
        self.losses[index] = losses.to(self.losses)
        self.gradients[index] = rows.to(self.gradients)
        self.rho[index] = rho
        self.total += self.rho[which].to(self.total) @ self.gradients[which] - before


class Prospect(Around):
    """Minimises max_q sum_i q_i loss_i - shift_cost * n / 2 * |q - 1/n|^2: the worst reweighting of the training
    examples that the spectrum allows, at a price for leaving the plain mean.

    For a batch the gradient is mean over i of (n q_i g_i - n rho_i h_i) + sum_j rho_j h_j, where g are its
    gradients, h the gradients in a table and rho the weights that they had: both the bias of weights from a
    batch alone and the variance vanish as the tables settle. As the authors' code does, the table of losses
    is updated at the batch that the gradient is taken of. Parameters of other methods' own modules get the
    batch's gradients with weights n q_i.

    It keeps a gradient of every training example, which suits small models; the tables are filled at the
    start, as one more epoch would. It must be the last of the arounds.
    """

    card = Card(
        title="Distributionally Robust Optimization with Bias and Variance Reduction",
        paper="arxiv:2310.13863",
        claim="At a constant learning rate it converges to the optimum of a spectral risk, where gradients "
        "weighted within the batch stall.",
        verdict="reproduced",
        needs=("apart",),
    )
    spectrum: Spectrum = Field("superquantile", description="superquantile (CVaR), extremile or exponential (ESRM)")
    level: float = Field(0.5, ge=0, lt=1, description="superquantile: share of the smallest losses that do not count")
    power: float = Field(2.0, ge=1, description="extremile: the expected worst of so many draws")
    rate: float = Field(1.0, gt=0, le=100, description="exponential: growth of the weights over the ranks")
    shift_cost: float = Field(1.0, gt=0, description="price of moving the weights away from uniform")
    memory: float = Field(0.5, gt=0, description="largest table of gradients, in GiB")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        """The tables, empty. Raises BadInput where they would be too large."""
        size = sum(p.numel() for p in trained_parameters(model))
        needed = 4 * len(data.train) * size / GIB
        if needed > self.memory:
            raise BadInput(
                f"train.around: prospect keeps a gradient of each of {len(data.train)} examples for {size} parameters, "
                f"{needed:.2g} GiB, and `memory` allows {self.memory:g}; take a smaller model or fewer examples"
            )
        return Tables(data.train, size)

    def weights_of(self, losses: Tensor) -> Tensor:
        """The weights (n,) of all examples."""
        parameter = {"superquantile": self.level, "extremile": self.power, "exponential": self.rate}[self.spectrum]
        spectrum = risk_spectrum(self.spectrum, parameter, len(losses))
        values = losses.nan_to_num(posinf=torch.finfo(torch.float32).max).cpu().numpy()  # the frame reports them
        return torch.from_numpy(robust_weights(values, spectrum, self.shift_cost)).to(losses)

    def fill(self, tables: Tables, next: NextGradients, state: State, size: int) -> None:
        """Losses and gradients of all examples at the first weights, and what follows from them."""
        with frozen_statistics(state.model):
            for batch in tables.split.batches(size):
                batch = batch.to(tables.total.device)
                found = next(batch, apart=True)
                rows = flat_rows(found.grads, state.model)
                tables.write(batch.index, found.losses, rows, tables.rho[batch.index])
        tables.q.copy_(self.weights_of(tables.losses))
        tables.rho.copy_(tables.q)
        tables.total.copy_(tables.rho.to(tables.total) @ tables.gradients)
        tables.filled.fill_(True)

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        tables = ctx.own
        assert isinstance(tables, Tables)
        if not tables.filled:
            self.fill(tables, next, state, batch.size)
        found = next(batch, apart=True)
        at, n = batch.index, len(tables.q)
        rows = flat_rows(found.grads, state.model)
        q, rho = (weights[at].to(rows) * n / batch.size for weights in (tables.q, tables.rho))
        control = tables.total - rho @ tables.gradients[at]
        grads = [None if row is None else torch.tensordot(q, row, dims=1) for row in found.grads]
        tables.write(at, found.losses, rows, tables.q[at])
        tables.q.copy_(self.weights_of(tables.losses))
        return Gradients(found.losses, added(grads, control, state.model))
