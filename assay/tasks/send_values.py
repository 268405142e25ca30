"""What a run of MLflow is told: tags, parameters, metrics, data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PARAM_LENGTH = 6000
METRICS, PARAMS = 1000, 100
DIGEST_LENGTH = 36


def log_values(client: Any, run: Any, row: Mapping[str, Any], created: int, whole: bool) -> None:
    """Logs tags, parameters and metrics; of a run that is there whole only what is new."""
    from mlflow.entities import Metric, Param, RunTag

    known = run.data.metrics if whole else {}
    metrics = [
        Metric(name, value, created, step)
        for name, value, step in row["metrics"]
        if not whole or (step == 0 and known.get(name) != value)
    ]
    params = [] if whole else [Param(name, value[:PARAM_LENGTH]) for name, value in row["params"].items()]
    shown = {
        "mlflow.note.content": row["tags"].get("note", ""),
        "mlflow.source.name": row["tags"].get("command", ""),
        "mlflow.source.git.commit": row["tags"].get("git", ""),
    }
    kept = {name: value for name, value in row["tags"].items() if name not in ("note", "command", "git")}
    tags = [RunTag(name, value) for name, value in {**kept, **shown}.items() if value]
    first = max(0, METRICS - len(params) - len(tags))
    client.log_batch(run.info.run_id, metrics[:first], params[:PARAMS], tags)
    for start in range(first, len(metrics), METRICS):
        client.log_batch(run.info.run_id, metrics[start : start + METRICS])
    for start in range(PARAMS, len(params), PARAMS):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMS])


def log_data(client: Any, run: Any, row: Mapping[str, Any]) -> None:
    """Logs the data sets as inputs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for i, data in enumerate(row["data"]):
        name, digest = data["source"] or data["name"], str(data["version"])
        source, profile = json.dumps({"path": f"data/{name}", "dvc": digest}), json.dumps(data["sizes"])
        found = Dataset(name, digest[:DIGEST_LENGTH], "dvc", source, profile=profile)
        inputs.append(DatasetInput(found, [InputTag("mlflow.data.context", "evaluation" if i else "training")]))
    client.log_inputs(run.info.run_id, inputs)
