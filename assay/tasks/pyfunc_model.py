"""The model that MLflow serves: an artifact folder, read without pickle (models from code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class AssayModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Predictions of a model artifact for inputs as the model sees them (N, ...)."""

    def load_context(self, context: Any) -> None:
        """Loads the artifact."""
        from assay.tasks.artifacts import load_card, load_model

        folder = Path(context.artifacts["artifact"])
        self.model, self.dtype = load_model(folder), load_card(folder).spec.dtype

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Predictions (N, ...)."""
        import torch

        with torch.inference_mode():
            x = torch.as_tensor(np.asarray(model_input), dtype=getattr(torch, self.dtype))
            found: np.ndarray = self.model(x).numpy()
        return found


mlflow.models.set_model(AssayModel())
