"""Further training of a compressed model on a teacher's softened outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.plugins._distillation import SoftTargets
from assay.plugins.compress.recover._common import TrainsOn
from assay.plugins.contract import Card, Field


class Distill(SoftTargets, TrainsOn):
    """Trains the model on with the recipe that trained it, its objective replaced: the softened outputs of a
    teacher, beside the labels. What earlier links fixed (zeros) holds.

    The teacher is the dense model where no other is named; it then tells of the training data little that their
    labels do not. A further training on other or more data (`trainings.NAME.data`) can tell more.
    """

    card = Card(
        title="Distilling the Knowledge in a Neural Network",
        paper="arxiv:1503.02531",
        claim="With few labelled examples the softened outputs of a teacher that learned more of them recover more "
        "accuracy than the labels do, and more than its outputs that are not softened (with the dense model as teacher "
        "on its own data this did not show).",
        verdict="reproduced",
        problems=("classification", "graph"),
        needs=("float",),
    )
    teacher: str = Field(
        "dense",
        min_length=1,
        description="the teacher: a name in `trainings`, or the dense model",
        json_schema_extra={"names": "trainings"},
    )

    def changes(self) -> Mapping[str, Any]:
        """The objective."""
        return {"objective": {"name": "distillation", **self.model_dump(include=set(SoftTargets.model_fields))}}

    def models(self) -> Mapping[str, str]:
        """The teacher."""
        return {"teacher": self.teacher}
