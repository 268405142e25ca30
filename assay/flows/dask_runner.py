"""`--runner dask`: groups of cells as tasks of a Dask cluster."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.flows.elsewhere import Answer, Elsewhere, Place, cells_from_text, cells_to_text, compute_group
from assay.flows.session import Session
from assay.flows.workers import Stopped, WorkerDied
from assay.plugins.values import BadInput
from assay.tasks import settings
from assay.tasks.cells import Cell
from assay.tasks.compute import Outcome
from assay.tasks.remote import Remote
from assay.tasks.store import Store

POLL_SECONDS = 1.0
CONNECT_SECONDS = 30


@contextlib.contextmanager
def open_client(session: Session) -> Iterator[tuple[Any, bool]]:
    """A client of the cluster that DASK_SCHEDULER_ADDRESS (or Dask's own configuration) names, else of one of
    `workers` processes on this machine; and whether it is the latter. Raises BadInput."""
    home = session.project / ".assay" / "dask"
    os.environ.setdefault("DASK_CONFIG", str(home))  # or it writes into the home folder
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise BadInput(f"--runner dask: {error}: pip install 'assay[dask]'") from error
    address = dask.config.get("scheduler-address", None)
    if address and session.remote is None:
        raise BadInput(f"--runner dask at {address} needs a store that its machines share: give store.remote")
    with contextlib.ExitStack() as stack:
        if address:
            try:
                yield stack.enter_context(Client(address, timeout=CONNECT_SECONDS)), False
            except OSError as error:
                raise BadInput(f"--runner dask: no Dask scheduler answers at {address}: {error}") from error
            return
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=session.workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                local_directory=str(home),
                silence_logs="CRITICAL",  # a heartbeat that comes while the cluster ends is no error
            )
        )
        yield stack.enter_context(Client(cluster)), True


@dataclass
class DaskExecutor(Elsewhere):
    """Hands groups to a Dask cluster. `project` is this machine's, where the cluster's processes are here and
    use its store; theirs and their own stores else."""

    client: Any = field(kw_only=True)
    project: Path | None = field(kw_only=True)

    def send(self, cells: Sequence[Cell]) -> Answer:
        """Submits the cells as one task and waits for what comes of them."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        request = {
            "cells": cells_to_text(cells),
            "place": [str(self.project), str(self.store.root)] if self.project else None,
            "remote": self.remote.url if self.remote else "",
            "command": self.command,
            "limit_at": self.limit_at,
        }
        name = f"{cells[0].group}-{uuid.uuid4().hex}"
        future = self.client.submit(compute, json.dumps(request), key=name, pure=False)
        while True:
            if self.stopped():
                future.cancel(force=True)
                raise Stopped("the run was stopped")
            try:
                return Answer.from_json(json.loads(future.result(timeout=POLL_SECONDS)))
            except TimeoutError:
                continue
            except (KilledWorker, CancelledError, CommClosedError) as error:
                raise WorkerDied(f"with its Dask worker: {error}") from error
            except Exception as error:  # as the task raised it
                text = f"{cells[0].label}: {type(error).__name__}: {error}"
                return Answer(Outcome(cells[0].key, "failed", message=text), {})


def compute(text: str) -> str:
    """The Dask task: computes the cells of a request and answers, both as JSON."""
    request = json.loads(text)
    place = Place(*map(Path, request["place"])) if request["place"] else Place.here()
    settings.apply(place.project)
    remote = Remote(request["remote"], Store(place.root)) if request["remote"] else None
    cells = cells_from_text(request["cells"])
    return json.dumps(compute_group(cells, place, remote, request["command"], request["limit_at"]).to_json())
