"""Learning layer by layer, each told apart right from wrong labels by its own activity."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import (
    BadInput,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    DataSpec,
    Field,
    Learner,
    Record,
    State,
    Terms,
)
from assay.plugins.train.learner import _common

EPS = 1e-4


class GoodnessNet(nn.Module):
    """Scores each class by the goodness of the layers when that class's label is written into the example.

    `labels` (classes, classes) has the values that stand for each class in place of an example's first ones.
    """

    labels: Tensor

    def __init__(self, layers: nn.Sequential, parts: Sequence[Sequence[str]], labels: Tensor):
        super().__init__()
        self.layers = layers
        self.parts = parts
        self.register_buffer("labels", labels)

    def embed(self, x: Tensor, rows: Tensor) -> Tensor:
        """Examples (N, ...) with their first values replaced by rows (N, classes)."""
        return torch.cat([rows, x.flatten(1)[:, rows.shape[1] :]], dim=1).reshape(x.shape)

    def goodness(self, x: Tensor, local: bool = False) -> list[Tensor]:
        """The sum of squared activities of each layer (N,), whose input is the last one's activity at length one;
        with `local` no gradient crosses from layer to layer."""
        found = []
        for part in self.parts:
            given = x.detach() if local else x
            length = given.flatten(1).norm(dim=1) + EPS
            x = given / length.reshape(-1, *[1] * (given.ndim - 1))
            for name in part:
                x = self.layers.get_submodule(name)(x)
            found.append(x.flatten(1).square().sum(1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The layers' summed goodness for each class (N, classes)."""
        count = len(self.labels)
        tried = x.repeat_interleave(count, dim=0)
        scores = torch.stack(self.goodness(self.embed(tried, self.labels.repeat(x.shape[0], 1)))).sum(0)
        return scores.reshape(-1, count)


def layer_losses(goodness: Sequence[Tensor], positive: Tensor, threshold: float, collaborate: bool) -> Tensor:
    """The sum over the layers of -log p for positive and -log(1 - p) for negative examples (N,), where
    p_l = sigmoid(G_l + gamma_l - threshold).

    gamma_l is the goodness of all other layers, a constant for layer l; without collaboration it is 0.
    """
    total = torch.stack(list(goodness)).sum(0).detach()
    sign = torch.where(positive, 1.0, -1.0)
    losses = torch.zeros_like(total)
    for own in goodness:
        gamma = total - own.detach() if collaborate else 0.0
        losses = losses + F.softplus(-sign * (own + gamma - threshold))
    return losses


@dataclass(frozen=True)
class Discrimination:
    """The objective: each example with its label against the same example with a wrong one."""

    threshold: float
    collaborate: bool

    def init(self, model: nn.Module, data: Data, ctx: Context) -> None:
        """It has no module of its own."""

    def reads(self, model: nn.Module) -> Sequence[str]:
        """It reads no activations of the model's pass."""
        return ()

    def loss(self, model: GoodnessNet, batch: Batch, ctx: Context) -> Tensor:
        """Half the losses of an example with its label and with a wrong one, drawn evenly from the others, (N,)."""
        y = batch.y if batch.y.is_floating_point() else F.one_hot(batch.y, len(model.labels))
        wrong = torch.multinomial((1.0 - y.float()).clamp_min(0).cpu(), 1, generator=ctx.rng).squeeze(1).to(y.device)
        rows = torch.cat([y.to(model.labels) @ model.labels, model.labels[wrong]])
        both = model.embed(torch.cat([batch.x, batch.x]), rows)
        positive = torch.arange(len(both), device=both.device) < batch.size
        losses = layer_losses(model.goodness(both, local=True), positive, self.threshold, self.collaborate)
        return losses.reshape(2, -1).mean(0)


def label_rows(spec: DataSpec) -> Tensor:
    """How labels are written into the first values of an example, as a row for each class (classes, classes): the
    class's place has the highest value, the others show nothing.

    Raises BadInput where an example is too small.
    """
    count, size = spec.n_outputs, torch.Size(spec.shape).numel()
    if size <= count:
        raise BadInput(
            f"train.learner: forward_forward writes a label for each of {count} classes into an example, which has "
            f"{size} values; at least {count + 1} are needed"
        )

    def first(values: tuple[float, ...]) -> Tensor:
        per_channel = torch.tensor(values).reshape(-1, *[1] * (len(spec.shape) - 1))
        return per_channel.expand(spec.shape).flatten()[:count]

    return torch.where(torch.eye(count, dtype=torch.bool), first(spec.high), first(spec.blank))


class ForwardForward(Learner):
    """Each layer learns to be active for examples with their own label and quiet for ones with a wrong label.

    The label is written into the first values of the example, in place of what was there. A layer is a dense one of
    the recipe's `layers` with the activation that follows it; the recipe's head is not used, and models with other
    layers are refused. All layers are updated at each step; no gradient crosses between them. The trained
    network's class scores are the layers' goodness, summed, for each label in turn. Penalties are on these scores
    and have ordinary gradients.
    """

    card = Card(
        title="Layer Collaboration in the Forward-Forward Algorithm",
        paper="arxiv:2305.12393",
        also=("arxiv:2212.13345",),
        claim="Layers that know of the others' goodness classify better than layers that learn on their own.",
        verdict="reproduced",
        problems=("classification",),
        gives=("closure", "graph", "apart"),
        refuses=("objective",),
    )
    collaborate: bool = Field(True, description="add the other layers' goodness; without it Hinton's algorithm")
    threshold: float = Field(10.0, ge=0, le=1e6, description="the goodness at which a layer is undecided")

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """How labels are written. Raises BadInput where the model or the data are not fit for it."""
        _common.dense_chain(model, data.spec, self.method_name())
        return Record(tensors={"labels": label_rows(data.spec)})

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """The network of the model's `layers` that scores classes by goodness."""
        parts = _common.weighted_layers(model, self.method_name())
        layers = cast(nn.Sequential, copy.deepcopy(model.get_submodule("layers")))
        return GoodnessNet(layers, parts, record.tensors["labels"].clone())

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step."""
        objective = Bound(Discrimination(self.threshold, self.collaborate), ctx, "objective")
        return _common.first_state(model, replace(terms, objective=objective), data, ctx)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update of all layers; `loss` is the layers' summed loss before it."""
        state.model.train()
        return {"loss": _common.descend(state, batch)}
