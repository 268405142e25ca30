"""Groups of cells that are computed elsewhere: what the parent does, and what the process does that gets one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.flows.executor import Executor, Nobody
from assay.flows.workers import Stopped, WorkerDied
from assay.tasks import closure
from assay.tasks.cells import Cell, Ref
from assay.tasks.compute import Outcome
from assay.tasks.elsewhere import Refused, adopt, stays
from assay.tasks.remote import Remote, RemoteFailed
from assay.tasks.store import Store

THREADS = 64
PROJECT, STORE = "ASSAY_PROJECT", "ASSAY_STORE"


@dataclass(frozen=True)
class Answer:
    """What came of a group: seconds of each cell that was computed, by key, and the outcome of the first that
    could not be (None where all are there)."""

    outcome: Outcome | None
    computed: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"outcome": self.outcome and self.outcome.to_json(), "computed": dict(self.computed)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Answer:
        """The answer that `to_json` gave."""
        return Answer(value["outcome"] and Outcome.from_json(value["outcome"]), value["computed"])


@dataclass
class Elsewhere(Executor):
    """Hands groups of cells to processes elsewhere, by `send`, and waits for them; artifacts travel through
    the store's remote, or lie in a store that both have. What belongs to this machine (sources, cells that
    measure it) is computed here."""

    @property
    def at_once(self) -> int:
        """As many as there are threads to wait: how many places there are is known elsewhere alone."""
        return THREADS

    def warm(self, count: int) -> None:
        """Starts a process for what is computed here."""
        super().warm(min(count, 1))

    def send(self, cells: Sequence[Cell]) -> Answer:
        """Has cells computed and returns what came of them. Raises WorkerDied, Stopped."""
        raise NotImplementedError

    def _compute(self, rest: list[Cell]) -> Outcome | None:
        if any(stays(cell) for cell in rest):
            return super()._compute(rest)
        if self.stopped():
            raise Stopped("the run was stopped")
        try:
            self._collect(rest, Answer(None, {}))  # another machine may have finished them
            if not rest:
                return None
            self._share_inputs(rest)
            with self._clock():
                try:
                    answer = self.send(rest)
                except WorkerDied:
                    self._collect(rest, None)
                    raise
                self._collect(rest, answer)
        except RemoteFailed as error:
            return Outcome(rest[0].key, "failed", message=f"{rest[0].label}: {error}")
        if rest and answer.outcome is None:
            raise WorkerDied("before its artifact arrived whole")
        return answer.outcome

    def _share_inputs(self, cells: Sequence[Cell]) -> None:
        """Sends what the cells need and only this machine has."""
        if self.remote is None:
            return
        for ref in dict.fromkeys(ref for cell in cells for ref in cell.inputs.values()):
            if self.store.has(ref.slot, ref.key):
                self.remote.push(ref)

    def _collect(self, rest: list[Cell], answer: Answer | None) -> None:
        """Takes the cells off the list whose artifacts are there, up to the first that is not. Without an
        answer, of a process that died, they count as computed."""
        while rest and self._arrived(rest[0].ref):
            cell = rest.pop(0)
            computed = answer is None or cell.key in answer.computed
            with self._lock:
                self.computed += computed
            seconds = answer.computed.get(cell.key, 0.0) if answer else 0.0
            self.watcher.finished(cell, "done" if computed else "hit", seconds)

    def _arrived(self, ref: Ref) -> bool:
        return self.store.has(ref.slot, ref.key) if self.remote is None else self._bring(ref)


# the process that gets a group


@dataclass(frozen=True)
class Place:
    """Where a process that gets groups keeps the project and its store."""

    project: Path
    root: Path

    @staticmethod
    def here() -> Place:
        """As `assay worker` says by environment, else the working directory."""
        project = Path(os.environ.get(PROJECT) or Path.cwd()).resolve()
        return Place(project, Path(os.environ.get(STORE) or project / ".assay" / "store"))


@dataclass
class Seconds(Nobody):
    """Notes how long each cell took that was computed."""

    computed: dict[str, float] = field(default_factory=dict)

    def finished(self, cell: Cell, status: str, seconds: float) -> None:
        """A cell is there."""
        if status == "done":
            self.computed[cell.key] = seconds


def compute_group(cells: Sequence[Cell], place: Place, remote: Remote | None, command: str, limit_at: str) -> Answer:
    """Computes a group of cells that another machine planned, with the GPU slots of the Prefect server
    `limit_at`. It refuses those whose keys would be others
    here, and leaves trainings that a method asks for to whoever sent the group."""
    downloads = Path(os.environ.get("ASSAY_DOWNLOADS") or place.project / ".assay" / "downloads")
    memory = place.project / ".assay" / "cache" / "code.json"
    seconds, threads = Seconds(), cells[0].env.threads
    with Executor(Store(place.root), downloads, 1, threads, command, seconds, remote, limit_at) as executor:
        executor.warm(1)  # its imports take as long as ours
        closure.load_cache(memory)
        try:
            rest = [adopt(cell, place.project) for cell in cells]
        except Refused as refused:
            return Answer(Outcome(cells[0].key, "failed", message=str(refused)), {})
        closure.save_cache(memory)
        outcome = executor.advance(rest)
    return Answer(outcome, seconds.computed)


def cells_to_text(cells: Sequence[Cell]) -> str:
    """Cells as they travel."""
    return json.dumps([cell.to_json() for cell in cells])


def cells_from_text(text: str) -> list[Cell]:
    """The cells that `cells_to_text` gave."""
    return [Cell.from_json(value) for value in json.loads(text)]
