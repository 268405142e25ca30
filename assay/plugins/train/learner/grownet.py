"""Gradient boosting whose weak learners are shallow networks, each fed with the features of the last."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    BadInput,
    Batch,
    Card,
    Context,
    Data,
    Field,
    Gradients,
    Learner,
    Record,
    Split,
    State,
    Terms,
)
from assay.plugins.train.learner import _common


class Boosted(nn.Module):
    """start + sum_k rate_k f_k: `stages` are networks with children `layers` and `head`.

    Stage k > 0 sees the flattened example and the features that the stage before feeds its head with. `grown` is the
    number of stages in use; at 0, before training, all of them answer.
    """

    start: Tensor
    grown: Tensor

    def __init__(self, stages: list[nn.Module], start: Tensor):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.rates = nn.ParameterList([nn.Parameter(torch.ones(())) for _ in stages])
        self.register_buffer("start", start)
        self.register_buffer("grown", torch.zeros((), dtype=torch.int64))

    def stage(self, k: int, x: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """f_k's output (N, outputs) and features (N, units), given the last stage's features."""
        given = x.flatten(1) if features is None else torch.cat([x.flatten(1), features], dim=1)
        stage = self.stages[k]
        features = stage.get_submodule("layers")(given)
        return stage.get_submodule("head")(features), cast(Tensor, features)

    def first(self, count: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `count` stages predict together (N, outputs), none the start (1, outputs), and the last one's
        features."""
        total, features = self.start, None
        for k in range(count):
            output, features = self.stage(k, x, features)
            total = total + self.rates[k] * output
        return total, features

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (N, outputs)."""
        return self.first(int(self.grown) or len(self.stages), x)[0]


class Given(nn.Module):
    """Stands for a model whose output is known."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        return self.output


def first_and_second(terms: Terms, output: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The objective of each example (N,), and its first and (diagonal) second derivative in the output (N, K)."""
    output = output.detach().requires_grad_()
    with torch.enable_grad():
        losses = replace(terms, penalties=[]).losses(Given(output), batch)
        if losses.ndim == 0:
            raise BadInput("train.objective: grownet needs a loss of each example; this one couples the batch")
        (g,) = torch.autograd.grad(losses.sum(), output, create_graph=True)
        columns = [torch.autograd.grad(g[:, k].sum(), output, retain_graph=True)[0][:, k] for k in range(g.shape[1])]
    return losses.detach(), g.detach(), torch.stack(columns, dim=1)


def newton_losses(g: Tensor, h: Tensor, step: Tensor) -> Tensor:
    """What a weak learner's contribution `step` = rate f(x) (N, K) is fitted by: its weighted distance
    h (step + g / h)^2 / 2 to the Newton step -g / h, up to what does not depend on it, (N,)."""
    return (g * step + h * step.square() / 2).sum(1)


def fit_stage(state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients:
    """Losses of the ensemble before the newest stage, and the gradients of the newest stage's fit."""
    model = cast(Boosted, state.model)
    k = int(model.grown) - 1
    if apart:
        raise BadInput("train.around: gradients of single examples were asked for; grownet has none")
    with state.terms.autocast():
        with torch.no_grad():
            before, features = model.first(k, batch.x)
        losses, g, h = first_and_second(state.terms, before.float().expand(batch.size, -1), batch)
        fit = newton_losses(g, h, model.rates[k].detach() * model.stage(k, batch.x, features)[0])
    fit = fit if weights is None else fit * weights
    grads = torch.autograd.grad(fit.mean(), state.parameters(), allow_unused=True)
    return Gradients(losses, list(grads))


def starting_point(train: Split, outputs: int) -> Tensor:
    """The best constant (1, outputs): log frequencies of classes, or the mean of values."""
    y = np.asarray(train.fields["y"])
    y = y[np.asarray(train.fields["labelled"])] if "labelled" in train.fields else y
    if y.dtype.kind in "iu":
        counts = np.bincount(y.astype(np.int64), minlength=outputs)
        return torch.from_numpy(np.log((counts + 1) / (counts.sum() + outputs))).float()[None]
    return torch.from_numpy(y.reshape(len(y), -1).mean(0)).float()[None]


def stage_at(step: int, steps: int, stages: int, corrective: float) -> tuple[int, bool]:
    """The stage of a step, and whether the step is for its new learner (else it corrects the ensemble)."""
    k = step * stages // steps
    begin, end = -(-k * steps // stages), -(-(k + 1) * steps // stages)
    return k, k == 0 or step - begin < math.ceil((1 - corrective) * (end - begin))


class GrowNet(Learner):
    """Adds weak learners one after the other, and after each corrects all of them together.

    A weak learner is the recipe's model, a chain of dense layers with a dense head; from the second on it also sees
    the last hidden layer of the one before, and its weights are drawn anew. The training is cut into `stages` equal
    parts. In each a new learner is first fitted to the Newton step of the objective; then, after the first, all
    learners and their rates go down the objective (and penalties), for the share `corrective` of the part and at half
    the learning rate. Training that goes on from a finished ensemble corrects it.
    """

    card = Card(
        title="Gradient Boosting Neural Networks: GrowNet",
        paper="arxiv:2002.07971",
        claim="The loss on new data falls stage by stage, and the corrective step lowers it further.",
        verdict="reproduced",
        problems=("classification", "regression"),
        gives=("closure",),
    )
    stages: int = Field(8, ge=1, le=1000, description="number of weak learners", examples=[2])
    corrective: float = Field(0.5, ge=0, lt=1, description="share of a stage's steps that correct the ensemble")

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """The constant to start from. Raises BadInput where the model is no chain of dense layers with a dense head."""
        _common.dense_chain(model, data.spec, self.method_name())
        head = getattr(model, "head", None)
        if not isinstance(head, nn.Linear):
            raise BadInput(f"train.learner: grownet needs a dense head; here it is a {type(head).__name__}")
        return Record(tensors={"start": starting_point(data.train, head.out_features)})

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """The ensemble, all of whose stages are there from the start."""
        stages = [copy.deepcopy(model)]
        for _ in range(self.stages - 1):
            stage = copy.deepcopy(model)
            for module in stage.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
            chain = cast(nn.Sequential, stage.get_submodule("layers"))
            name, first = next((n, m) for n, m in chain.named_children() if isinstance(m, nn.Linear))
            units = cast(nn.Linear, stage.get_submodule("head")).in_features
            setattr(chain, name, nn.Linear(first.in_features + units, first.out_features, first.bias is not None))
            stages.append(stage)
        return Boosted(stages, record.tensors["start"].clone())

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step, with an optimizer for new learners and one for corrections."""
        own = _common.own_modules(model, terms, data, ctx)
        groups = [_common.parameter_groups(model, own) for _ in range(2)]
        for group in groups[1]:
            group["lr_scale"] = 0.5
        optimizers = dict(zip(("new", "corrective"), map(terms.optimizer.build, groups), strict=True))
        finished = int(cast(Boosted, model).grown) == self.stages
        return State(model.train(), own, optimizers, terms, {"finished": finished})

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update of the newest learner, or of all; `loss` is the batch's mean loss before it."""
        state.model.train()
        k, fresh = stage_at(ctx.step, state.terms.total_steps, self.stages, self.corrective)
        if state.extra["finished"] or not fresh:
            return {"loss": _common.update(state, batch, _common.differentiate, "corrective")}
        if state.terms.total_steps < self.stages:
            raise BadInput(
                f"train.learner: grownet has {self.stages} stages and the training {state.terms.total_steps} steps: "
                "at least one a stage is needed"
            )
        cast(Boosted, state.model).grown.fill_(k + 1)
        return {"loss": _common.update(state, batch, fit_stage, "new")}
