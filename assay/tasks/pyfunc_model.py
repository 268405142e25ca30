"""The model that MLflow serves: an artifact folder, read without pickle (models from code)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class AssayModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Predictions of a model artifact for inputs as the model sees them (N, ...): those of the same
    inference that was evaluated, which for an int8 model is onnxruntime's, and the method of `predict` where the
    run has one."""

    def load_context(self, context: Any) -> None:
        """Loads the artifact."""
        from assay.tasks.artifacts import load_card, load_model
        from assay.tasks.inference import stored_inference
        from assay.tasks.subject import deployed

        folder = Path(context.artifacts["artifact"])
        exported = folder / "model.onnx"
        kernels = exported if exported.exists() else None
        self.dtype = load_card(folder).spec.dtype
        self.infer = deployed(load_card(folder), lambda: load_model(folder), kernels, stored_inference(folder))

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> np.ndarray:
        """Predictions (N, outputs)."""
        import torch

        from assay.plugins.values import Batch

        x = torch.as_tensor(np.asarray(model_input), dtype=getattr(torch, self.dtype))
        found: np.ndarray = self.infer(Batch({"index": torch.arange(len(x)), "x": x})).numpy()
        return found


mlflow.models.set_model(AssayModel())
