"""Sends to MLflow what has runs nested in its own: a sweep one for each point and model, a study or a search one for
each training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.tasks.send_values import log_data, log_values

PAGE = 1000
PARENT = "mlflow.parentRunId"


def send_nested(client: Any, experiment: str, folder: Path, message: Mapping[str, Any]) -> int:
    """Sends a message's runs, the first row being that of their parent, all with one tag (`nested`: its name and
    value); may be repeated, also after it was cut off anywhere. Nothing is registered."""
    tag, id = message["nested"]
    there = _known(client, experiment, f"tags.{tag} = '{id}'")
    first, *rows = message["runs"]
    parent = there.get(("", "")) or _create(client, experiment, {tag: id}, first, message["created"])
    for i, row in enumerate(rows, 1):
        run = there.get((row["point"], row["model"]))
        if run is None:
            # MLflow lists the latest first; people want the first point first.
            tags = {tag: id, PARENT: parent.info.run_id}
            run = _create(client, experiment, tags, row, message["created"] - i)
        _send_run(client, run, row, message["created"], folder)
    # It is finished when all of its runs are there.
    _send_run(client, parent, first, message["created"], folder)
    return len(message["runs"])


def _known(client: Any, experiment: str, query: str) -> dict[tuple[str, str], Any]:
    """The runs that are there, by point and model."""
    found, token = [], None
    while True:
        page = client.search_runs([experiment], query, max_results=PAGE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return {(run.data.tags.get("point", ""), run.data.tags.get("model", "")): run for run in found}


def _create(client: Any, experiment: str, more: Mapping[str, str], row: Mapping[str, Any], start: int) -> Any:
    tags = {"point": row["point"], "model": row["model"], **more}
    return client.create_run(experiment, start, {k: v for k, v in tags.items() if v}, row["name"])


def _send_run(client: Any, run: Any, row: Mapping[str, Any], created: int, folder: Path) -> None:
    """Makes a run of MLflow say what the row says. A point that failed before and is done now loses its
    reason."""
    mended = "failure" in run.data.tags and not row["failure"]
    whole = run.info.status in ("FINISHED", "FAILED") and not mended
    log_values(client, run, row, created, whole)
    if mended:
        client.delete_tag(run.info.run_id, "failure")
    if row["files"]:
        client.log_artifacts(run.info.run_id, str(folder / row["files"]), "report")
    if row["data"] and not whole:
        log_data(client, run, row)
    status = "FAILED" if row["failure"] else "FINISHED"
    client.set_terminated(run.info.run_id, status, run.info.start_time + round(1000 * row["seconds"]))
