"""Sends the outbox to MLflow. With `send_values`, `registered` and the model that MLflow serves the only file that
imports MLflow; it runs in a process of its own, without torch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from assay.tasks import mlflow_at, settings, track
from assay.tasks.send_nested import send_nested
from assay.tasks.send_values import log_data, log_values

CANDIDATE, CHAMPION = "candidate", "champion"
CODE = Path(__file__).with_name("pyfunc_model.py")


def main(project: Path) -> None:
    """Gets ready, waits for the word, sends, prints how many runs were sent."""
    settings.apply(project)
    mlflow_at.quiet()
    try:
        # MLflow prints where to see a run, password and all.
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            get_ready(project)
            sent = sync(project) if sys.stdin.readline().strip() == "send" else 0
    except Exception:
        track.log(project, traceback.format_exc())
        raise SystemExit(1) from None
    print(sent, flush=True)


def get_ready(project: Path) -> None:
    """Does beforehand what the first run sent would wait for."""
    import mlflow
    from mlflow.exceptions import MlflowException

    # The first model saved costs a second more than the next: what is installed is looked through.
    with tempfile.TemporaryDirectory() as temporary:
        mlflow.pyfunc.save_model(path=f"{temporary}/model", python_model=str(CODE), pip_requirements=["mlflow"])
    uri = mlflow_at.tracking_uri(project)
    if mlflow_at.answers(uri):
        try:
            connect(project, uri)
        except (MlflowException, OSError) as error:
            track.log(project, f"{type(error).__name__}: {error}")


# the place


def create_database(uri: str) -> None:
    """Makes the database of an sqlite URI where there is none: under a lock, as several processes at once
    would break each other's, and under another name first, so that it is there whole or not at all."""
    path = mlflow_at.local_database(uri)
    if path is None or path.exists():
        return
    import mlflow

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return
        for half in path.parent.glob(f"{path.name}.new-*"):
            half.unlink()
        temporary = path.with_name(f"{path.name}.new-{time.time_ns()}")
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)
        os.rename(temporary, path)


def connect(project: Path, uri: str) -> tuple[Any, str]:
    """A client and the id of the project's experiment, made where it is not there."""
    create_database(uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    name = mlflow_at.experiment_name(project)
    found: Any = client.get_experiment_by_name(name)
    if found is None:
        remote = uri.startswith(("http", "databricks"))
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            client.create_experiment(name, None if remote else mlflow_at.artifact_root(project), kind)
        except MlflowException:
            # Another process may have been faster.
            if client.get_experiment_by_name(name) is None:
                raise
        found = client.get_experiment_by_name(name)
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, str(found.experiment_id)


# sending


def sync(project: Path) -> int:
    """Sends every message, oldest first, and returns how many runs were sent. One that cannot be sent stays,
    with the reason in the log, and does not hold up the others."""
    uri = mlflow_at.tracking_uri(project)
    # A local registry looks models up where the environment points.
    os.environ["MLFLOW_TRACKING_URI"] = uri
    sent = 0
    with track.lock(project):
        track.sweep(project)
        for folder in track.waiting(project):
            try:
                client, experiment = connect(project, uri)
                sent += send_message(client, experiment, project, folder)
            except Exception:
                track.log(project, f"{folder.name}: {traceback.format_exc()}")
                if not mlflow_at.answers(uri):
                    break
            else:
                track.done(project, uri, folder)
    return sent


def send_message(client: Any, experiment: str, project: Path, folder: Path) -> int:
    """Sends one message's runs; may be repeated, also after it was cut off anywhere."""
    message = json.loads((folder / track.MESSAGE).read_text(encoding="utf-8"))
    if "nested" in message:
        return send_nested(client, experiment, folder, message)
    query = f"tags.pipeline = '{message['pipeline']}'"
    found = [r for r in client.search_runs([experiment], query) if "sweep" not in r.data.tags]
    there = {(r.data.tags.get("key"), r.data.tags.get("model")): r for r in found}
    for i, row in enumerate(message["runs"]):
        run = there.get((row["key"], row["model"]))
        if run is None:
            tags = {"pipeline": message["pipeline"], "key": row["key"], "model": row["model"]}
            name = f"{row['model']} {message['pipeline'][:8]}"
            # MLflow lists the latest first; people want the dense model first.
            run = client.create_run(experiment, message["created"] - i, tags, name)
        model = send_run(client, run, row, message["created"], folder)
        if row["registers"]:
            _register(client, run, row, model, mlflow_at.registered_name(project, row["model"]))
    return len(message["runs"])


def send_run(client: Any, run: Any, row: Mapping[str, Any], created: int, folder: Path) -> str:
    """Makes a run of MLflow say what the row says, and returns its model's id. It is FINISHED when all of it
    is there, and only what can change in a finished run is sent to one: gates judged anew, numbers read
    anew."""
    whole = run.info.status == "FINISHED"
    log_values(client, run, row, created, whole)
    files = folder / row["model"]
    client.log_artifacts(run.info.run_id, str(folder / "report"), "report")
    if whole and run.outputs and run.outputs.model_outputs:
        return str(run.outputs.model_outputs[0].model_id)
    if (files / "maps").exists():
        client.log_artifacts(run.info.run_id, str(files / "maps"), "maps")
    log_data(client, run, row)
    model = _log_model(client, run, row, files)
    client.set_terminated(run.info.run_id, end_time=run.info.start_time + round(1000 * row["seconds"]))
    return model


def _log_model(client: Any, run: Any, row: Mapping[str, Any], files: Path) -> str:
    """Logs the model artifact as a model that MLflow loads from code, and returns MLflow's id of it."""
    import mlflow
    import numpy as np
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    run_id, experiment = run.info.run_id, run.info.experiment_id
    # One that a killed process began is taken up again.
    there = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    model = there[0] if there else client.create_logged_model(experiment, row["model"], run_id)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(row["dtype"]), (-1, *row["shape"]))]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, *row["outputs"]))]),
    )
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            path=path,
            python_model=str(CODE),
            artifacts={"artifact": str(files / "artifact")},
            signature=signature,
            input_example=np.load(files / "example.npy", allow_pickle=False),
            pip_requirements=list(row["requirements"]),
            mlflow_model=Model(run_id=run_id, model_id=model.model_id),
        )
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    if run.outputs is None or not run.outputs.model_outputs:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def _register(client: Any, run: Any, row: Mapping[str, Any], model: str, name: str) -> None:
    """A variant that passed all gates is the candidate, under one version however often it is sent. One that
    fails is not registered; was it the candidate under other gates, it is so no longer."""
    from mlflow.exceptions import MlflowException

    versions = client.search_model_versions(f"name = '{name}' and tags.key = '{row['key']}'")
    if row["judged"]:
        if versions:
            version = versions[0].version
        else:
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            tags = {"key": row["key"], "pipeline": row["tags"]["pipeline"]}
            source = f"models:/{model}"
            version = client.create_model_version(name, source, run.info.run_id, tags, model_id=model).version
        client.set_registered_model_alias(name, CANDIDATE, version)
    elif any(CANDIDATE in client.get_model_version(name, v.version).aliases for v in versions):
        client.delete_registered_model_alias(name, CANDIDATE)


def promote(project: Path, variant: str, key: str) -> tuple[str, str, str]:
    """What `track.promote` says."""
    from assay.plugins.values import AssayError, BadInput

    uri = mlflow_at.tracking_uri(project)
    mlflow_at.quiet()
    from mlflow.exceptions import MlflowException

    if not mlflow_at.answers(uri):
        raise AssayError(f"MLflow does not answer at {mlflow_at.without_password(uri)}")
    name = mlflow_at.registered_name(project, variant)
    try:
        client, _ = connect(project, uri)
        version = client.get_model_version_by_alias(name, CANDIDATE)
        pipeline = version.tags.get("pipeline", "")
        if version.tags.get("key") != key:
            raise BadInput(
                f"the candidate of '{variant}' is version {version.version}, of pipeline {pipeline[:8]}, and not the "
                f"model of these params: run them first (a variant that passes its gates becomes the candidate), or "
                f"promote with the params of that pipeline"
            )
        client.set_registered_model_alias(name, CHAMPION, version.version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            why = "it did not pass all gates in the last run of the params as they stand"
            raise BadInput(f"variant '{variant}' has no candidate: {why} ({name})") from error
        raise AssayError(f"MLflow at {mlflow_at.without_password(uri)}: {mlflow_at.hide(str(error), uri)}") from None
    return name, str(version.version), pipeline


if __name__ == "__main__":
    main(Path(sys.argv[1]))
