"""The points of a sweep as one plan: every point's cells, those that are equal once."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.flows.session import (
    Session,
    code_memory,
    device_of,
    project_of,
    raw_tree,
    shown_command,
)
from assay.plugins.registry import UnknownMethod
from assay.plugins.values import BadInput
from assay.tasks import params as p
from assay.tasks import settings
from assay.tasks.cells import Cell, Ref
from assay.tasks.plan import Plan, make_plan
from assay.tasks.remote import open_remote
from assay.tasks.status import Status, needed, statuses
from assay.tasks.store import Store, store_root
from assay.tasks.sweep import Faults, Point, tree_of
from assay.tasks.versions import source_meta


@dataclass
class Part:
    """A point with its own session: params, plan, the project's store."""

    point: Point
    session: Session

    @property
    def plan(self) -> Plan:
        """The point's plan."""
        return self.session.plan


@dataclass
class Sweep:
    """Planned points. `base` is the raw tree that they change, `cells` the cells of all, equal ones once."""

    parts: list[Part]
    base: Mapping[str, Any]
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def session(self) -> Session:
        """The first point's session: project, store, remote and command are the same for all."""
        return self.parts[0].session

    @property
    def id(self) -> str:
        """A hash of the points and their plans, in whatever order."""
        lines = sorted(f"{part.point.id} {part.plan.id}" for part in self.parts)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    @property
    def answers(self) -> list[Ref]:
        """Where the answers of all points are."""
        return list(dict.fromkeys(ref for part in self.parts for ref in part.plan.answers))

    def merge(self) -> None:
        """Collects the cells of all points; plans then share what is equal."""
        self.cells = {}
        for part in self.parts:
            for key, cell in part.plan.cells.items():
                part.plan.cells[key] = self.cells.setdefault(key, cell)

    def statuses(self) -> list[Status]:
        """The state of every cell."""
        return statuses(self, self.session.store, {})

    def missing(self, status: Sequence[Status]) -> dict[str, int]:
        """The keys of the cells to compute, in an order in which they can be, each with the number of the
        first point that needs it."""
        by_key = {item.cell.key: item for item in status}
        found: dict[str, int] = {}
        for part in self.parts:
            for key in needed(part.plan, [by_key[key] for key in part.plan.cells]):
                found.setdefault(key, part.point.number)
        return found


def open_sweep(
    points: Sequence[Point],
    params: str | Path | Mapping[str, Any] | p.Params,
    overrides: Sequence[str],
    project: str | Path | None,
    command: str | None,
    device: str | None = None,
) -> Sweep:
    """Reads, checks and plans every point, for `device` where the machines that compute it are others. Reads no
    data. Raises BadInput, one line a fault, naming the points that have it."""
    tree, file = raw_tree(params, overrides)
    root = project_of(file, project)
    settings.apply(root)
    faults = Faults(len(points))
    parts: list[Part] = []
    shown = shown_command(command)
    with code_memory(root), _nothing_collected():
        for point in points:
            try:
                own = tree_of(tree, point)
                checked = p.validate(own, str(file or "params"))
                plan = make_plan(checked, root, device_of(checked, device))
                store = Store(store_root(checked.store.root, root))
            except (BadInput, UnknownMethod) as error:
                faults.add(point, error)
            else:
                parts.append(Part(point, Session(root, checked, plan, store, own, file, shown, overrides)))
    faults.refuse()
    _check_sources(parts)
    first = parts[0].session
    first.remote = open_remote(first.params.store.remote, first.store)
    sweep = Sweep(parts, tree)
    sweep.merge()
    return sweep


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """No search for garbage: plans are none, and walking through all of them takes as long as making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sources(params: p.Params) -> Iterator[tuple[str, Any]]:
    """The name and source of each data set."""
    for steps in (params.prepare, *params.datasets.values()):
        yield steps[0].dataset or steps[0].method_name(), steps[0]


def _check_sources(parts: Sequence[Part]) -> None:
    """Two points that make one data set in two ways: the second would find the first's."""
    made: dict[str, tuple[Point, dict[str, Any]]] = {}
    faults = Faults(len(parts))
    for part in parts:
        for name, source in sources(part.session.params):
            if source.rev:
                continue
            first, meta = made.setdefault(name, (part.point, source_meta(source)))
            if meta != source_meta(source):
                text = f"data/{name} is made with other parameters than in point {first.number} ({first.name})"
                faults.add(part.point, BadInput(f"{text}: sweep the source's `dataset:` name along with them (--zip)"))
    faults.refuse()


def materialise(sweep: Sweep) -> None:
    """Brings in every data set that is needed and not there, once; points that had not seen their data are
    then planned again. Raises BadInput, BadData."""
    from assay.tasks import data

    session = sweep.session
    looked_at: set[tuple[str, str]] = set()
    for part in sweep.parts:
        for name, source in sources(part.session.params):
            cell = next(c for c in part.plan.cells.values() if c.slot == "prepare/source" and c.spec["dataset"] == name)
            if (name, cell.key) in looked_at:
                continue
            looked_at.add((name, cell.key))
            if not session.store.has(cell.slot, cell.key):
                data.materialise(session.project, source, session.downloads)
    unseen = [part for part in sweep.parts if part.plan.unseen]
    if unseen:
        _plan_again(unseen, session.project)
        sweep.merge()


def _plan_again(parts: Sequence[Part], root: Path) -> None:
    faults = Faults(len(parts))
    with code_memory(root), _nothing_collected():
        for part in parts:
            params = part.session.params
            try:
                part.session.plan = make_plan(params, root, part.plan.env.device)
            except BadInput as error:
                faults.add(part.point, error)
    faults.refuse()
