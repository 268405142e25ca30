"""The two groups of examples that a training step divides most, and how sharp the loss is around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins._networks import trained_parameters
from assay.plugins.contract import (
    Batch,
    Card,
    Context,
    Evaluator,
    Field,
    NotAuditable,
    Number,
    Result,
    Split,
    Subject,
    tap,
)
from assay.plugins.evaluate.dynamics._common import course, drawn, losses

Loss = Callable[[Tensor, Batch], Tensor]
Groups = tuple[np.ndarray, np.ndarray]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All values as one vector."""
    return torch.cat([value.flatten() for value in tensors])


def gradient(model: nn.Module, loss: Loss, batches: Sequence[Batch]) -> Tensor:
    """The gradient of the mean loss of all examples, as one vector."""
    params = trained_parameters(model)
    total = torch.zeros_like(flat(params))
    for batch in batches:
        with torch.enable_grad():
            value = loss(model(batch.x), batch).sum()
        total += flat(torch.autograd.grad(value, params, materialize_grads=True))
    return total / sum(batch.size for batch in batches)


def curvature(model: nn.Module, loss: Loss, batches: Sequence[Batch], vector: Tensor) -> Tensor:
    """H v: the Hessian of the mean loss of all examples times a vector, as the gradient of the gradient along it."""
    params = trained_parameters(model)
    total = torch.zeros_like(vector)
    for batch in batches:
        with torch.enable_grad():
            value = loss(model(batch.x), batch).sum()
            along = flat(torch.autograd.grad(value, params, create_graph=True, materialize_grads=True)) @ vector
        if along.requires_grad:  # else the loss is linear in the weights
            total += flat(torch.autograd.grad(along, params, materialize_grads=True))
    return total / sum(batch.size for batch in batches)


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> float:
    """The largest eigenvalue of a symmetric matrix that is given by its products with vectors, by Lanczos with full
    reorthogonalisation; from below, and exact from as many steps on as there are different eigenvalues."""
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps):
        rest = product(basis[-1])
        diagonal.append(float(rest @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once leaves rounding errors, twice is enough
            rest = rest - known.T @ (known @ rest)
        length = float(rest.norm())
        if length <= 1e-6 * max(map(abs, diagonal)) or len(basis) == len(start):
            break
        beside.append(length)
        basis.append(rest / length)
    size = len(diagonal)
    tridiagonal = np.diag(diagonal) + np.diag(beside[: size - 1], 1) + np.diag(beside[: size - 1], -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


def feature_norms(model: nn.Module, split: Split, ctx: Context) -> np.ndarray:
    """The length of each example's features, what `layers` puts out: (N,), NaN where the model has no such child."""
    if "layers" not in dict(model.named_children()):
        return np.full(len(split), np.nan)
    found = []
    with torch.no_grad(), tap(model, ["layers"]) as seen:
        for batch in split.batches(ctx.batch_limit):
            model(batch.x.to(ctx.device))
            found.append(seen["layers"].flatten(1).norm(dim=1).double().cpu())
    return torch.cat(found).numpy()


def extremes(change: np.ndarray, size: int) -> Groups:
    """The `size` positions with the largest increase and the `size` with the largest decrease, most extreme first."""
    order = np.argsort(-change, kind="stable")
    return order[:size], order[::-1][:size]


class OpposingSignals(Evaluator):
    """What each step between kept checkpoints does to single training examples: the group whose loss it raises most,
    the group whose loss it lowers most, how their gradients lie to each other, and how sharp the loss is.

    Gradient descent at rate lr is stable while the sharpness, the largest eigenvalue of the Hessian of the mean
    training loss, is below 2 / lr. Groups that are chosen by what a step does to them tend to point apart in that very
    step, whatever the data are; so the pair of groups of one step, the one that raises the mean loss most, is followed
    through all others. Keep consecutive epochs (`train.keep`): with all examples in one batch an epoch is a step.

    Arrays by kept checkpoint: `epoch`, `loss` (the mean), `sharpness`, and of the pair the `cosine` of its gradients,
    `feature_norm`, and `group_loss` beside that of all others (named by `group`); of the step that leads to a
    checkpoint, NaN for the first: `step_cosine`, `share`. `pair` (2, size) are the numbers of the pair's training
    examples, most extreme first.
    """

    card = Card(
        title="Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
        paper="arxiv:2311.04163",
        claim="Above the threshold of stability the training loss spikes because two small groups, planted in digits "
        "with one large feature and opposite labels, lose in turn; without them it does not.",
        verdict="reproduced",
        needs=("trajectory", "train_data", "grad"),
    )
    examples: int = Field(2048, ge=4, description="training examples that are followed, drawn by the seed")
    size: int = Field(10, ge=1, description="examples in a group, at most a third of those followed")
    steps: int = Field(10, ge=1, le=1000, description="products with the Hessian for the sharpness of a checkpoint")

    def numbers(self) -> tuple[str, ...]:
        return ("cosine", "antiphase", "step_cosine", "share", "feature_norm", "sharpness")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        if subject.loss is None:
            raise NotAuditable("the recipe's objective is no function of predictions alone")
        train = subject.data["main"].train
        chosen = drawn(train, self.examples, ctx.rng)
        split, kept = train.take(chosen), course(subject)
        models = [model.to(ctx.device) for _, model in kept]
        each = np.stack([losses(subject, model, split, ctx) for model in models])
        size = max(1, min(self.size, len(split) // 3))
        groups = [extremes(change, size) for change in np.diff(each, axis=0)]
        worst = int(np.argmax(np.diff(each.mean(1))))
        pair = groups[worst]
        both = np.concatenate(pair)
        others = np.setdiff1d(np.arange(len(split)), both)
        lengths = np.array([feature_norms(model, split, ctx) for model in models])
        arrays = {
            "epoch": np.array([epoch for epoch, _ in kept]),
            "loss": each.mean(1),
            "sharpness": self.sharpness(models, subject.loss, on(ctx, split), ctx),
            "cosine": np.array([opposition(model, subject.loss, split, pair, ctx) for model in models]),
            "feature_norm": lengths[:, both].mean(1) / lengths[:, others].mean(1),
            "group": np.array(["largest increase", "largest decrease", "all others"]),
            "group_loss": np.stack([each[:, at].mean(1) for at in (*pair, others)], axis=1),
            "pair": chosen[np.stack(pair)],
            **by_step(models, subject.loss, split, each, groups, ctx),
        }
        return Result(summary(arrays, worst), arrays)

    def sharpness(self, models: Sequence[nn.Module], loss: Loss, batches: Sequence[Batch], ctx: Context) -> np.ndarray:
        """The sharpness at each checkpoint, all from one random start: (checkpoints,)."""
        start = torch.randn(flat(trained_parameters(models[0])).numel(), generator=ctx.rng).to(ctx.device)

        def product(model: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda vector: curvature(model, loss, batches, vector)

        return np.array([largest_eigenvalue(product(model), start, self.steps) for model in models])


def on(ctx: Context, split: Split) -> list[Batch]:
    """A split's batches on the device."""
    return [batch.to(ctx.device) for batch in split.batches(ctx.batch_limit)]


def opposition(model: nn.Module, loss: Loss, split: Split, groups: Groups, ctx: Context) -> float:
    """The cosine between two groups' gradients, NaN where one is zero."""
    a, b = (gradient(model, loss, on(ctx, split.take(group))) for group in groups)
    lengths = float(a.norm() * b.norm())
    return float(a @ b) / lengths if lengths else float("nan")


def by_step(
    models: Sequence[nn.Module], loss: Loss, split: Split, each: np.ndarray, groups: Sequence[Groups], ctx: Context
) -> dict[str, np.ndarray]:
    """Of each step's own groups the cosine of their gradients at its start, and their share of all loss before and
    after it: (checkpoints,) each, the first NaN."""
    rows = [(np.nan, np.nan)]
    for i, (model, pair) in enumerate(zip(models[:-1], groups, strict=True)):
        around = each[i : i + 2].sum(0)
        share = around[np.concatenate(pair)].sum() / around.sum() if around.sum() else np.nan
        rows.append((opposition(model, loss, split, pair, ctx), share))
    return dict(zip(("step_cosine", "share"), np.array(rows).T, strict=True))


def summary(arrays: Mapping[str, np.ndarray], worst: int) -> dict[str, Number]:
    """The numbers; the pair's leave out the step that it was chosen by."""
    changes = np.delete(np.diff(arrays["group_loss"], axis=0), worst, axis=0)
    cosines = np.delete(arrays["cosine"], [worst, worst + 1])
    apart = changes[:, 0] * changes[:, 1] < 0
    return {
        "cosine": Number(
            float(cosines.mean()) if len(cosines) else float("nan"), "", 0,
            "Cosine between the mean gradients of the pair: the examples whose loss rises and falls most in the step "
            "that raises the mean loss most. Mean over all other checkpoints; NaN where there are none or a gradient "
            "is zero.",
        ),
        "antiphase": Number(
            float(apart.mean()) if len(apart) else float("nan"), "share", 0,
            "Share of all other steps in which the loss of one group of the pair falls as the other's rises; NaN where "
            "there are none.",
        ),
        "step_cosine": Number(
            float(arrays["step_cosine"][1:].mean()), "", 0,
            "Cosine between the mean gradients, at a step's start, of the examples whose loss that step raises and "
            "lowers most; mean over steps, NaN where a gradient is zero.",
        ),
        "share": Number(
            float(arrays["share"][1:].mean()), "share", 0,
            "Share of all loss that is that of a step's two groups, to compare with their share of the examples; mean "
            "over steps, NaN where there is no loss.",
        ),
        "feature_norm": Number(
            float(arrays["feature_norm"][0]), "", 0,
            "Length of what `layers` puts out for the pair, relative to all other examples, at the first kept "
            "checkpoint; NaN where the model has no such child.",
        ),
        "sharpness": Number(
            float(arrays["sharpness"][-1]), "", 0,
            "Largest eigenvalue of the Hessian of the mean training loss at the last kept checkpoint.",
        ),
    }  # fmt: skip
