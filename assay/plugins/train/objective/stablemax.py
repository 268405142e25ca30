"""Cross-entropy of StableMax, a softmax without the exponential."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Objective


def log_stablemax(logits: Tensor) -> Tensor:
    """log of s(z_k) / sum_j s(z_j) over the last dimension, with s(z) = z + 1 from 0 on and 1 / (1 - z) below."""
    log_s = torch.where(logits >= 0, torch.log1p(logits.clamp_min(0)), -torch.log1p(-logits.clamp_max(0)))
    return log_s - torch.logsumexp(log_s, dim=-1, keepdim=True)


class StableMax(Objective):
    """-sum_k q_k log stablemax(output)_k of each example, in nats; q is 1 for the label, or given.

    Where softmax turns differences of logits into probabilities that round to 1, and the loss and its
    gradient to exactly 0, this grows linearly with a logit, so that training goes on. Computed in double
    precision, as the authors' code does.
    """

    card = Card(
        title="Grokking at the Edge of Numerical Stability",
        paper="arxiv:2501.04697",
        claim="Without weight decay a network that has fitted a sparse parity goes on to generalise, where softmax "
        "cross-entropy stalls as its gradients round to zero (on small modular additions this did not show).",
        verdict="reproduced",
        problems=("classification",),
    )

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each example (N,) for logits (N, classes) and labels (N,) or probabilities (N, classes)."""
        target = batch.y if batch.y.is_floating_point() else F.one_hot(batch.y, output.shape[1])
        return -(target * log_stablemax(output.double())).sum(dim=1).float()
