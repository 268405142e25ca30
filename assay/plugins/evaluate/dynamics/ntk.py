"""The empirical neural tangent kernel along a training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Number, Result, Subject
from assay.plugins.evaluate.dynamics._common import course, part


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """The gradient of each output of each example in all trainable parameters: (N, outputs, P), float64."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = dict(model.named_buffers())

    def outputs(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        found: Tensor = functional_call(model, {**weights, **buffers}, (one[None],))
        return found.flatten()

    rows = vmap(jacrev(outputs), in_dims=(None, 0))(weights, x)
    return torch.cat([row.flatten(2) for row in rows.values()], dim=2).double()


def kernel(model: nn.Module, x: Tensor) -> Tensor:
    """The neural tangent kernel J J^T of all outputs of all examples: (N outputs, N outputs), float64."""
    rows = jacobian(model, x).flatten(0, 1)
    return rows @ rows.T


def change(first: Tensor, now: Tensor) -> float:
    """How far a kernel has moved, relative to what it was: ||now - first|| / ||first|| (Frobenius)."""
    return float((now - first).norm() / first.norm())


def alignment(first: Tensor, now: Tensor) -> float:
    """The cosine between two kernels: 1 where one is a multiple of the other."""
    return float((first * now).sum() / (first.norm() * now.norm()))


class NTK(Evaluator):
    """The empirical neural tangent kernel of the kept checkpoints, against that of the first (epoch 0).

    In the limit of infinite width it stays what it was at initialisation; a network that learns features moves
    it. Arrays by kept checkpoint: `epoch`, `change`, `alignment`, and `spectrum`, the last kernel's eigenvalues as
    shares of their sum, largest first.
    """

    card = Card(
        title="Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
        paper="arxiv:1806.07572",
        claim="The wider a network, the less its tangent kernel changes during training.",
        verdict="reproduced",
        needs=("trajectory", "train_data", "grad"),
    )
    examples: int = Field(32, ge=2, le=4096, description="training examples of the kernel, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("change", "alignment")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        kept = course(subject)
        split = part(subject.data["main"].train, self.examples, ctx.rng)
        x = split.batch(slice(0, len(split))).x.to(ctx.device)
        if not x.is_floating_point():
            raise NotAuditable("inputs are no real numbers")
        kernels = [kernel(model.to(ctx.device), x).cpu() for _, model in kept]
        changes = np.array([change(kernels[0], k) for k in kernels])
        alignments = np.array([alignment(kernels[0], k) for k in kernels])
        values = torch.linalg.eigvalsh(kernels[-1]).flip(0).clamp_min(0)
        numbers = {
            "change": Number(
                changes[-1], "", 0, "Distance of the last checkpoint's tangent kernel from the first's, relative to it."
            ),
            "alignment": Number(alignments[-1], "", 0, "Cosine between the last and the first tangent kernel."),
        }
        arrays = {
            "epoch": np.array([epoch for epoch, _ in kept]),
            "change": changes,
            "alignment": alignments,
            "spectrum": (values / values.sum()).numpy(),
        }
        return Result(numbers, arrays)
