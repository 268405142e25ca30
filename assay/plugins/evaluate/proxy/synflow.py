"""Synaptic flow: how much positive weights carry from the input to the output, without data."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.func import functional_call

from assay.plugins.contract import Card, Context, Evaluator, NotAuditable, Result, Subject
from assay.plugins.evaluate.proxy._common import answer, gradients, layers, untrained


def synflow(network: nn.Module, shape: tuple[int, ...]) -> float:
    """The sum over weights of w dR/dw, where all of the network's numbers are replaced by their magnitudes and R is
    the sum of its outputs on an input of ones. Batch norms take their running statistics: before training they
    leave everything as it is."""
    still = copy.deepcopy(network).eval()
    numbers = {**dict(still.named_parameters()), **dict(still.named_buffers())}
    positive = {k: v.detach().double().abs() if v.is_floating_point() else v for k, v in numbers.items()}
    names = [f"{name}.weight" for name, _ in layers(still)]
    own = [positive[name].requires_grad_() for name in names if name in positive]  # shared weights have one name
    if not own:
        raise NotAuditable("the network has no convolution and no linear layer")
    ones = torch.ones(1, *shape, dtype=torch.float64, device=own[0].device)
    found = gradients(functional_call(still, positive, (ones,)).sum(), own)
    return sum(float((weight * gradient).detach().sum()) for weight, gradient in zip(own, found, strict=True))


class Synflow(Evaluator):
    """The synaptic flow, summed over all weights, of the network before its training; it looks at no data.

    It looks at the kept checkpoint of epoch 0 (`train.keep: [0, last]`).
    """

    card = Card(
        title="Pruning neural networks without any data by iteratively conserving synaptic flow",
        paper="arxiv:2006.05467",
        also=("arxiv:2101.08134",),
        claim="Networks that score higher before their training tend to be more accurate after it, more so than those "
        "with more parameters.",
        verdict="reproduced",
        needs=("trajectory",),
    )

    def numbers(self) -> tuple[str, ...]:
        return ("synflow",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        if subject.spec.dtype != "float32":
            raise NotAuditable("inputs are no real numbers")
        value = synflow(untrained(subject, self.over, ctx), subject.spec.shape)
        return answer("synflow", value, "Sum over weights of |weight| × gradient of the summed output of ones.")
