"""Distillation: a teacher's softened outputs as targets, beside the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins._distillation import SoftTargets
from assay.plugins.contract import BadInput, Batch, Card, Context, Data, Objective
from assay.plugins.train.objective._common import asked, named_model


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) in nats, (N,), for logits (N, classes).

    The paper's cross-entropy with soft targets less their own entropy, which has no gradient: 0 where both agree.
    """
    wanted, found = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(dim=1)


class Distillation(SoftTargets, Objective):
    """alpha times the divergence from the teacher's softened outputs, times T^2, plus (1 - alpha) times the
    cross-entropy of the labels at temperature 1.

    T^2 keeps the share of the soft targets' gradient, which falls as 1 / T^2, what it is. The teacher, the role
    `teacher` of the recipe's `models`, sees the very inputs that the student sees, augmented as they are.
    """

    card = Card(
        title="Distilling the Knowledge in a Neural Network",
        paper="arxiv:1503.02531",
        problems=("classification", "graph"),
        roles=("teacher",),
    )

    def init(self, model: nn.Module, data: Data, ctx: Context) -> None:
        """No state. Raises BadInput where there is no teacher, or its outputs are of another shape."""
        teacher = named_model(ctx, "teacher", "distillation")
        prediction, _ = asked(teacher, data.train.batch([0]).x.to(ctx.device), "train.models.teacher")
        found = tuple(prediction.shape[1:])
        if found != (data.spec.n_outputs,):
            raise BadInput(
                f"train.models.teacher: it predicts {list(found)} for each example, the student "
                f"[{data.spec.n_outputs}]: a teacher must have learned the same classes"
            )

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each example (N,), for labels (N,) or probabilities (N, classes)."""
        student = ctx.forward(model, batch).float()
        with torch.no_grad():
            teacher = ctx.models["teacher"](batch.x).float()
        hard = F.cross_entropy(student, batch.y, reduction="none")
        return self.alpha * soft_loss(student, teacher, self.temperature) + (1 - self.alpha) * hard
