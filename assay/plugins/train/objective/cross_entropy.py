"""Cross-entropy, with label smoothing as a field."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Field, Objective

UNKNOWN = -1
"""The label of a place of a label map or a sequence that does not count."""


class CrossEntropy(Objective):
    """-sum_k q_k log softmax(output)_k of each example, in nats; the mean over its pixels or tokens where it
    has a label for each. A label of -1 does not count there.

    q is 1 for the label (or the given probabilities), mixed with the uniform distribution:
    (1 - label_smoothing) q + label_smoothing / classes.
    """

    card = Card(
        title="Rethinking the Inception Architecture for Computer Vision",
        paper="arxiv:1512.00567",
        claim="Label smoothing keeps the largest logit from running far ahead of the others.",
        verdict="reproduced",
        problems=("classification", "graph", "segmentation", "sequence"),
        library="torch.nn.functional.cross_entropy",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the uniform distribution in the target")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each example (N,) for logits (N, classes) and labels (N,) or probabilities (N, classes); for
        logits (N, classes, H, W) and labels (N, H, W); for logits (N, T, classes) and labels (N, T)."""
        y = batch.y
        if output.ndim == 2:
            return F.cross_entropy(output, y, reduction="none", label_smoothing=self.label_smoothing)
        logits = output if output.ndim > 3 else output.transpose(1, 2)
        each = F.cross_entropy(
            logits, y, reduction="none", label_smoothing=self.label_smoothing, ignore_index=UNKNOWN
        ).flatten(1)
        return each.sum(dim=1) / (y != UNKNOWN).flatten(1).sum(dim=1).clamp_min(1)
