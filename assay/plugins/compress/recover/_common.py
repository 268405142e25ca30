"""What links that train the model on share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from assay.plugins.contract import Ask, Context, Data, Field, Lab, Link, Record


class TrainsOn(Link):
    """One training that starts from the model at hand, by the recipe that trained it with a few changes; what
    earlier links fixed (zeros) holds."""

    epochs: int = Field(1, ge=1, description="passes over the training data")
    lr: float | None = Field(None, gt=0, description="learning rate in place of the recipe's; null keeps it")

    def changes(self) -> Mapping[str, Any]:
        """What else differs from the recipe, by dotted path."""
        return {}

    def models(self) -> Mapping[str, str]:
        """The named models that the training is given, by role."""
        return {}

    def asks(self) -> Sequence[Ask]:
        """The training."""
        changes: dict[str, Any] = {"epochs": self.epochs, **self.changes()}
        if self.lr is not None:
            changes["optimizer.lr"] = self.lr
        return (Ask(changes=changes, start="parent", models=self.models()),)

    def fit(self, model: nn.Module, data: Data, ctx: Context, lab: Lab) -> Record:  # type: ignore[override]
        """The trained weights."""
        (trained,) = lab.train(self.asks())
        weights = {name: value.detach().cpu().clone() for name, value in trained.model.state_dict().items()}
        return Record(values={"history": [dict(row) for row in trained.history]}, weights=weights)

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """The same architecture; the weights are in the record."""
        return copy.deepcopy(model)
