"""What is to be learned from teachers: the parameters that an objective and the link that trains with it share."""

from __future__ import annotations

from pydantic import BaseModel, Field


class SoftTargets(BaseModel):
    """How a teacher's outputs and the labels are weighed."""

    temperature: float = Field(4.0, gt=0, le=100, description="T, by which both networks' logits are divided")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the soft targets; 1 leaves the labels out")


class TokenTargets(BaseModel):
    """How the features of one teacher and the token relations of another are weighed."""

    alpha: float = Field(1.0, ge=0, le=1e4, description="weight of the relations of queries and keys")
    beta: float = Field(1.0, ge=0, le=1e4, description="weight of the relations among values")
    keep: float = Field(0.7, gt=0, le=1, description="share of the patches that goes on at each of three stages")
    heads: int = Field(
        4, ge=1, le=64, description="parts in which tokens are related; must divide the model's width and mim_teacher's"
    )
