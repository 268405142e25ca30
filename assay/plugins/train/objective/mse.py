"""Mean squared error."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Objective


class MSE(Objective):
    """The squared error of each example, averaged over its outputs.

    Integer labels are regressed as one-hot vectors, without a softmax (Hui & Belkin). Their factors for
    data with 42 classes and more are not applied.
    """

    card = Card(
        title="Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in Classification Tasks",
        paper="arxiv:2006.07322",
        claim="A classifier trained with the square loss is about as accurate as with cross-entropy.",
        verdict="reproduced",
        problems=("classification", "regression", "restoration", "field"),
    )

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each example (N,) for outputs (N, ...) and values of that shape, values (N,) for a single
        output, or labels (N,)."""
        y = batch.y
        target = y.reshape(output.shape) if y.is_floating_point() else F.one_hot(y, output.shape[1])
        return (output - target).square().reshape(len(output), -1).mean(dim=1)
