"""Further training of a compressed model."""

from __future__ import annotations

from assay.plugins.compress.recover._common import TrainsOn
from assay.plugins.contract import Card


class Finetune(TrainsOn):
    """Trains the model on with the recipe that trained it; what earlier links fixed (zeros) holds."""

    card = Card(
        title="Learning both Weights and Connections for Efficient Neural Networks",
        paper="arxiv:1506.02626",
        claim="Retraining the weights that are left recovers accuracy that pruning lost.",
        verdict="reproduced",
        needs=("float",),
    )
