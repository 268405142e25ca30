"""Further training of a compressed vision transformer by two teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.plugins._distillation import TokenTargets
from assay.plugins.compress.recover._common import TrainsOn
from assay.plugins.contract import Card, Field


class HybridDistill(TokenTargets, TrainsOn):
    """Trains the tokens of a vision transformer on with the recipe that trained it, its objective replaced: the
    features of one teacher and the token relations of another, which learned by masked image modelling.

    Labels and the model's head take no part: a classifier needs `recover/finetune` after it.
    """

    card = Card(
        title="Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners",
        paper="arxiv:2306.15876",
        claim="A student of both teachers is near the token relations of the one and the features of the other, and a "
        "linear probe of it is more accurate than of a student of features alone (the first showed; the probes were "
        "equally accurate on small digits).",
        verdict="not reproduced",
        problems=("classification", "representation"),
        modality=("image",),
        needs=("float",),
    )
    mim_teacher: str = Field(
        examples=["mim"],
        min_length=1,
        description="the teacher of relations: a name in `trainings`, whose objective is masked_image_modelling",
        json_schema_extra={"names": "trainings"},
    )
    teacher: str = Field(
        "dense",
        min_length=1,
        description="the teacher of features: a name in `trainings`, or the dense model",
        json_schema_extra={"names": "trainings"},
    )

    def changes(self) -> Mapping[str, Any]:
        """The objective."""
        return {"objective": {"name": "hybrid_distillation", **self.model_dump(include=set(TokenTargets.model_fields))}}

    def models(self) -> Mapping[str, str]:
        """The two teachers."""
        return {"teacher": self.teacher, "mim_teacher": self.mim_teacher}
