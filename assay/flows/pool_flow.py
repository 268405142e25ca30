"""What a work pool's worker runs: a group of cells that a run elsewhere hands out. Prefect imports this file in
a process of its own for each group."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator

from prefect import flow
from prefect.states import Completed, Failed, State

from assay.flows.elsewhere import Answer, Place, cells_from_text, compute_group
from assay.plugins.values import BadInput
from assay.tasks.remote import Remote
from assay.tasks.store import Store

BEAT_SECONDS = 5.0
NAME = r"[0-9a-f]{32}"


def folder_of(group: str) -> str:
    """Where, in the remote, parent and worker tell each other of a group. Raises BadInput for another name."""
    import re

    if not re.fullmatch(NAME, group):
        raise BadInput(f"{group!r} is no group's name")
    return f"groups/{group}"


@flow(name="assay-cells", flow_run_name="{label}", persist_result=False)
def cells(label: str, group: str, remote: str, command: str, device: str = "cpu") -> State:
    """Computes the cells of `group`, which wait in the `remote`, and writes there what came of them. `device`
    is what the pool's machines have; runs are planned for it."""
    place = Place.here()
    store = Remote(remote, Store(place.root))
    folder = folder_of(group)
    with _beating(store, f"{folder}/beat"):
        text = store.read(f"{folder}/cells.json")
        if text is None:
            return Failed(message="whoever handed out this group is gone")
        url = os.environ.get("PREFECT_API_URL", "")
        failures = json.loads(store.read(f"{folder}/failures.json") or "{}")
        answer = compute_group(cells_from_text(text), place, store, command, url, failures)
        store.write(f"{folder}/answer.json", json.dumps(answer.to_json()))
    return _state(answer)


def _state(answer: Answer) -> State:
    outcome = answer.outcome
    if outcome is not None and outcome.status == "failed":
        return Failed(message=outcome.message)
    waits = f"; waits for {len(outcome.pending)} trainings" if outcome is not None else ""
    return Completed(message=f"computed {len(answer.computed)} cells{waits}")


@contextlib.contextmanager
def _beating(remote: Remote, name: str) -> Iterator[None]:
    """Lets the parent see that this process lives."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.is_set():
            with contextlib.suppress(Exception):  # the next beat may come through
                remote.write(name, str(count))
            count += 1
            done.wait(BEAT_SECONDS)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(BEAT_SECONDS)
