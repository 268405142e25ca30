"""A sweep: many points of the params as one run, in which equal cells are computed once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from assay.flows.session import GATE_FAILED, exchange, project_of
from assay.flows.sweep.points import Sweep, materialise, open_sweep
from assay.plugins.values import BadInput
from assay.tasks import params as p
from assay.tasks.plan import DENSE
from assay.tasks.status import mark_used, verify
from assay.tasks.sweep import make_points
from assay.tasks.sweep_table import PointResult, SweepTable, check_metric, parse_metric

POINT_FAILED = 1


@dataclass
class SweepResult:
    """A finished sweep. `points` are in the order in which they were given; `computed` counts the cells that
    this run computed, `total` all that the points have."""

    table: SweepTable
    page: Path
    computed: int
    total: int
    seconds: float
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def id(self) -> str:
        """The sweep's id: a hash of its points and their plans."""
        return self.table.id

    @property
    def points(self) -> list[PointResult]:
        """What became of each point."""
        return self.table.results

    @property
    def csv(self) -> Path:
        """Every number of every point."""
        return self.page.with_suffix(".csv")

    @property
    def passed(self) -> bool:
        """Whether every point is done and every gate holds for every variant."""
        return all(point.passed for point in self.points)

    @property
    def exit_code(self) -> int:
        """0; 1 where a point failed; 3 where only gates failed."""
        return POINT_FAILED if self.table.failed else 0 if self.passed else GATE_FAILED


def plan_sweep(
    points: Sequence[Mapping[str, Any]],
    params: str | Path | Mapping[str, Any] | p.Params = "params.yaml",
    overrides: Sequence[str] = (),
    metrics: Sequence[str] = (),
    variant: str = "",
    project: str | Path | None = None,
    command: str | None = None,
    device: str | None = None,
) -> Sweep:
    """Checks and plans a sweep, for `device` where it is to be computed elsewhere; computes nothing. Raises
    BadInput, for all points at once."""
    chosen = [parse_metric(text) for text in metrics]
    sweep = open_sweep(make_points(points, overrides), params, overrides, project, command, device)
    for metric in chosen:
        check_metric(metric, [part.session.params for part in sweep.parts])
    known = dict.fromkeys(name for part in sweep.parts for name in (DENSE, *part.plan.variants))
    if variant and variant not in known:
        raise BadInput(f"--variant {variant}: no point has it; there are {', '.join(known)}")
    return sweep


def run_sweep(
    points: Sequence[Mapping[str, Any]],
    params: str | Path | Mapping[str, Any] | p.Params = "params.yaml",
    overrides: Sequence[str] = (),
    metrics: Sequence[str] = (),
    variant: str = "",
    project: str | Path | None = None,
    command: str | None = None,
    prefect: bool = True,
    track: bool = True,
    quiet: bool = True,
    console: Console | None = None,
    pool: str = "",
    runner: str = "local",
) -> SweepResult:
    """Runs the pipeline on many points, each a mapping of path to value (`{"train.optimizer.lr": 0.01}`) that
    is set in the params, and returns their numbers and page.

    Cells that points have in common are computed once, and what is there already not again. A point that
    fails has its reason in the result; the others go on. `metrics` names numbers to look at beside the
    headline number (`gradient:rank`, `accuracy/top1.drop`), `variant` the only one to look at. Nothing is
    registered and `dvc.lock` stays as it is. `pool` and `runner` say where cells compute, as for a run. Raises
    BadInput (exit code 2) before anything runs, where any point's params are wrong; AssayError (1).
    """
    from assay.flows.api import get_ready
    from assay.flows.progress import Screen
    from assay.flows.runners import open_executor, open_pool
    from assay.flows.sweep import groups

    begun = time.monotonic()
    console = console or Console(stderr=True)
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(open_pool(project_of(params, project), pool, runner, prefect))
        device = machines.device() if machines else None
        sweep = plan_sweep(points, params, overrides, metrics, variant, project, command, device)
        session = sweep.session
        executor = stack.enter_context(open_executor(session, sweep.cells.values(), machines, runner, console))
        materialise(sweep)
        status = exchange(session.remote, sweep, verify(sweep.statuses(), session.store))
        missing = sweep.missing(status)
        parts = groups.group(sweep.cells, missing)
        executor.warm(len(parts))
        sender = stack.enter_context(get_ready(session.project, prefect, track)) if parts else None
        ledger = groups.Ledger(executor)
        screen = Screen(len(missing), session.store, console, quiet)
        executor.watcher = groups.Named(screen, missing)
        with screen:
            if prefect and parts:
                groups.run_flow(session.project, sweep.id, parts, ledger)
            else:
                groups.run_local(parts, ledger)
        executor.stop()
        mark_used(sweep.cells.values(), session.store)
        table, page, notes = _finish(sweep, ledger.failures, metrics, variant, track, sender)
    return SweepResult(table, page, executor.computed, len(sweep.cells), time.monotonic() - begun, notes)


def _finish(
    sweep: Sweep, failures: Mapping[str, str], metrics: Sequence[str], variant: str, track: bool, sender: Any
) -> tuple[SweepTable, Path, list[str]]:
    from assay.flows.finish import send
    from assay.flows.sweep import finish

    session = sweep.session
    table = finish.tabulate(sweep, failures, [parse_metric(text) for text in metrics], variant)
    page = finish.write(sweep, table)
    if not track:
        return table, page, session.notes
    finish.enqueue(sweep, table, page)
    return table, page, [*session.notes, *send(session, sender)]
