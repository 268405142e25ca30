"""Learning with the output's error, sent to each hidden layer through a fixed random matrix."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
    State,
    Terms,
    mean_loss,
    patch,
)
from assay.plugins.train.learner._common import first_state, update, weighted_layers

FEEDBACK = "learner"


@dataclass
class Pass:
    """One forward pass: each hidden layer's output, cut off from what follows, and the model's."""

    hidden: dict[str, Tensor]
    output: Tensor


@contextlib.contextmanager
def cut(model: nn.Module, layers: list[str]) -> Iterator[list[Pass]]:
    """Inside the block no gradient crosses the named layers of `model.layers`; collects the passes."""
    passes: list[Pass] = []
    hidden: dict[str, Tensor] = {}

    def cutter(name: str, output: Tensor) -> Tensor:
        hidden[name] = output
        return output.detach()

    def last(output: Tensor) -> Tensor:
        passes.append(Pass(dict(hidden), output))
        hidden.clear()
        return output

    change = {f"layers.{name}": lambda output, name=name: cutter(name, output) for name in layers}
    with patch(model, {**change, "": last}):
        yield passes


def feedback_gradients(
    hidden: Mapping[str, Tensor], error: Tensor, feedback: Mapping[str, Tensor], parameters: list[nn.Parameter]
) -> list[Tensor | None]:
    """Gradients of hidden layers' parameters when layer l's output h_l (N, ...) has the error e B_l in place of the
    one that backpropagation gives it.

    `error` is the loss's gradient e in the output (N, ...), `feedback[l]` the matrix B_l (outputs, units of l).
    Within a layer the derivative is its own: of an affine map and its activation f it is
    x^T ((e B_l) * f'(a_l)).
    """
    rows = error.flatten(1)  # of half precision, as may be the layers' outputs, where the passes are in mixed one
    sent = {name: rows.to(feedback[name].dtype) @ feedback[name] for name in hidden}
    signals = [sent[name].reshape(h.shape).to(h.dtype) for name, h in hidden.items()]
    return list(torch.autograd.grad(list(hidden.values()), parameters, signals, allow_unused=True))


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two gradients, None being zero."""
    return b if a is None else a if b is None else a + b


def differentiate(state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients:
    """Losses of the batch, and direct feedback in place of the hidden layers' gradients; what follows the hidden
    layers, and what a term takes from a weight itself, has its ordinary gradient."""
    if apart:
        raise BadInput("train.around: gradients of single examples were asked for; direct_feedback_alignment has none")
    feedback = dict(state.own[FEEDBACK].named_buffers())
    with state.terms.autocast(), cut(state.model, list(feedback)) as passes:
        losses = state.terms.losses(state.model, batch)
    parameters = state.parameters()
    wanted = [*(p.output for p in passes), *parameters]
    found = torch.autograd.grad(mean_loss(losses, weights), wanted, allow_unused=True)
    grads: list[Tensor | None] = list(found[len(passes) :])
    for one, error in zip(passes, found, strict=False):
        if error is not None and one.hidden:
            sent = feedback_gradients(one.hidden, error, feedback, parameters)
            grads = [plus(a, b) for a, b in zip(grads, sent, strict=True)]
    return Gradients(losses.detach(), grads)


class DirectFeedbackAlignment(Learner):
    """Trains each hidden layer on the output's error times a fixed random matrix, and the head on its gradient.

    A hidden layer is a child of the model's `layers` with the activation and pooling that follow it; where such a
    child has several weights (a residual block, the factors of a factorised layer), the derivative within it is
    the ordinary one. Each layer's feedback is uniform in ±scale / sqrt(units of the layer). Models whose `layers`
    is no chain are refused.
    """

    card = Card(
        title="Direct Feedback Alignment Provides Learning in Deep Neural Networks",
        paper="arxiv:1609.01596",
        also=("arxiv:1906.04554",),
        claim="A network trained with fixed random feedback is almost as accurate as with backpropagation, and its "
        "updates come to lie within 90 degrees of the gradient.",
        verdict="reproduced",
        gives=("closure",),
    )
    scale: float = Field(1.0, gt=0, le=1000, description="the feedback's bound, times sqrt(units of the layer)")

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step, with the feedback matrices. Raises BadInput where `layers` is no chain."""
        layers = [part[-1] for part in weighted_layers(model, self.method_name())]
        state = first_state(model, terms, data, ctx)
        training = model.training
        model.eval()
        with torch.no_grad(), cut(model, layers) as passes:
            model(data.train.batch([0]).x.to(ctx.device))
        model.train(training)
        outputs = passes[0].output.numel()
        own = nn.Module()
        for name, h in passes[0].hidden.items():
            bound = self.scale / math.sqrt(h.numel())
            drawn = (2 * torch.rand(outputs, h.numel(), generator=ctx.rng) - 1) * bound
            own.register_buffer(name, drawn.to(ctx.device))
        state.own[FEEDBACK] = own
        return state

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update; `loss` is the batch's mean loss before it."""
        state.model.train()
        return {"loss": update(state, batch, differentiate)}
