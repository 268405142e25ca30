"""A rectified embedding."""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn

from assay.plugins.contract import Card, Context, Data, Edit, Record


class ReluEmbedding(Edit):
    """Puts a ReLU behind the head, so that no entry of an embedding is negative. Classes of any sizes then
    come to be orthogonal under the supervised contrastive loss."""

    card = Card(
        title="Symmetric Neural-Collapse Representations with Supervised Contrastive Loss: The Impact of ReLU and "
        "Batching",
        paper="arxiv:2306.07960",
        claim="With a ReLU behind the head the class means of unbalanced data come closer to orthogonal and of "
        "equal length.",
        verdict="reproduced",
        problems=("representation",),
    )

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """Nothing is decided from the data."""
        return Record()

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """The model with `head` a linear layer and a ReLU."""
        new = copy.deepcopy(model)
        new.head = nn.Sequential(OrderedDict(linear=new.head, relu=nn.ReLU()))  # type: ignore[arg-type]
        return new
