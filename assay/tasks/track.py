"""What MLflow is told, by way of an outbox: a run is written there whole, and sent from there by a process of
its own. So nothing is lost while MLflow is away, nothing is sent twice, and a run never waits for MLflow's
imports or fails with it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from assay.tasks import mlflow_at

if TYPE_CHECKING:
    from assay.tasks.plan import Plan
    from assay.tasks.store import Store
    from assay.tasks.summary import Summary

MESSAGE = "message.json"
STALE_SECONDS = 3600
VOLATILE = ("command", "git")


def log(project: Path, text: str) -> None:
    """Writes to the project's log, passwords hidden."""
    path = project / ".assay" / "logs" / "mlflow.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {mlflow_at.hide(text, mlflow_at.tracking_uri(project))}\n")


# the outbox


def outbox(project: Path) -> Path:
    """The folder of what waits to be sent, one folder a message, named so that they sort by age."""
    return project / ".assay" / "outbox"


def waiting(project: Path) -> list[Path]:
    """The messages that wait, oldest first."""
    return sorted(path.parent for path in outbox(project).glob(f"*/{MESSAGE}") if path.parent.suffix != ".tmp")


def count_waiting(project: Path) -> int:
    """How many runs wait."""
    return sum(len(_read(folder / MESSAGE)["runs"]) for folder in waiting(project))


def lock(project: Path) -> FileLock:
    """Held by whoever sends."""
    outbox(project).mkdir(parents=True, exist_ok=True)
    return FileLock(outbox(project) / "send.lock")


def enqueue(project: Path, plan: Plan, store: Store, summary: Summary, report: Path, facts: Mapping[str, Any]) -> bool:
    """Writes a finished run to the outbox; False where it waits already or was sent before, as it is, to
    the same place. `report` is the page, `facts` what the report says beside the numbers."""
    from assay.tasks import message

    runs = message.rows(plan, store, summary, facts)
    files = functools.partial(message.write_files, plan=plan, store=store, summary=summary, report=report)
    return put(project, plan.id, runs, files)


def put(
    project: Path,
    pipeline: str,
    runs: Sequence[Mapping[str, Any]],
    write_files: Callable[[Path], object],
    more: Mapping[str, Any] | None = None,
) -> bool:
    """Writes a message to the outbox: rows of runs, the files that `write_files` puts into a folder, and what
    `more` says; False where it waits already or was sent before, as it is, to the same place."""
    digest = _digest(pipeline, runs)
    known = _sent_to(project, pipeline) == digest
    if known or any(_read(folder / MESSAGE)["digest"] == digest for folder in waiting(project)):
        return False
    now = time.time_ns()
    folder = outbox(project) / f"{now}-{pipeline}"
    temporary = folder.with_name(f"{folder.name}.tmp")
    write_files(temporary)
    said = {"pipeline": pipeline, "created": now // 1_000_000, "digest": digest, "runs": runs, **(more or {})}
    _write(temporary / MESSAGE, said)
    os.rename(temporary, folder)
    return True


def _digest(pipeline: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """What two sayings of the same run have in common: neither who asked, nor at which commit."""
    lasting = [{**row, "tags": {k: v for k, v in row["tags"].items() if k not in VOLATILE}} for row in runs]
    return hashlib.sha256(json.dumps([pipeline, lasting], sort_keys=True).encode()).hexdigest()


def _sent_to(project: Path, pipeline: str) -> str:
    """The digest under which a pipeline was sent to where MLflow is now, or ''."""
    uri = mlflow_at.tracking_uri(project)
    database = mlflow_at.local_database(uri)
    path = outbox(project) / "sent" / f"{pipeline}.json"
    if not path.exists() or (database is not None and not database.exists()):
        return ""
    found = _read(path)
    return str(found["digest"]) if found["uri"] == mlflow_at.without_password(uri) else ""


def done(project: Path, uri: str, folder: Path) -> None:
    """Takes a message that was sent out of the outbox, and remembers it and what it registered."""
    message = _read(folder / MESSAGE)
    sent = outbox(project) / "sent"
    sent.mkdir(exist_ok=True)
    _write(sent / f"{message['pipeline']}.json", {"uri": mlflow_at.without_password(uri), "digest": message["digest"]})
    path = project / ".assay" / "registered.json"
    known = _read(path) if path.exists() else []
    _write(path, sorted({*known, *(row["key"] for row in message["runs"] if row["judged"])}))
    (folder / MESSAGE).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def sweep(project: Path) -> None:
    """Removes what killed processes left half written in the outbox."""
    for folder in outbox(project).glob("[0-9]*"):
        half = folder.suffix == ".tmp" or not (folder / MESSAGE).exists()
        if half and time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, value: Any) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


# sending


class Sender:
    """A process that imports MLflow and opens its database at once, and sends the outbox when it is told to.

    Start it when a run begins and nothing of MLflow's start is waited for in the end. It ends with
    `close`, or when this process is gone. Use as a context manager.
    """

    def __init__(self, project: Path):
        self.project = project
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "assay.tasks.send", str(project.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self) -> tuple[int, int]:
        """Sends what waits: how many runs were sent, and how many still wait."""
        if self.process.stdin is None or self.process.stdin.closed:
            return 0, count_waiting(self.project)
        try:
            self.process.stdin.write("send\n")
            self.process.stdin.close()
        except OSError:  # it is gone already, the log says why
            return 0, count_waiting(self.project)
        # Its answer is waited for, not its end: MLflow takes a second to leave.
        answer = self.process.stdout.readline() if self.process.stdout else ""
        return int(answer or 0), count_waiting(self.project)

    def close(self) -> None:
        """Ends the process, unless it sent and ended already."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def sync(project: Path, sender: Sender | None = None) -> tuple[int, int]:
    """Sends everything in the outbox: how many runs were sent, and how many still wait. With nothing to send
    it starts nothing."""
    if not waiting(project):
        return 0, 0
    if not mlflow_at.answers(mlflow_at.tracking_uri(project)):
        return 0, count_waiting(project)
    with sender or Sender(project) as process:
        return process.send()


def create_database(project: Path) -> None:
    """Makes the local database, one process at a time: several at once would break each other."""
    from assay.tasks import send

    send.create_database(mlflow_at.tracking_uri(project))


def promote(project: Path, variant: str, key: str) -> tuple[str, str, str]:
    """Gives the alias `champion` to the version that is `candidate`, which must be the model artifact `key`;
    returns name, version and pipeline.

    Raises BadInput where there is no candidate or it is another model, AssayError where MLflow does not answer.
    """
    from assay.tasks import send

    return send.promote(project, variant, key)
