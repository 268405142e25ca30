"""init, run, plan, stage, report, compare."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from assay.flows.api import run as run_pipeline
from assay.flows.session import Session, open_session
from assay.plugins.values import BadInput
from assay.tasks.cells import Ref
from assay.tasks.status import Status
from assay.tasks.summary import Row, Summary

WIDTH = 140
STAGES = ("prepare", "train", "compress", "attribute", "evaluate", "report")


def screen() -> Console:
    """Where progress and tables go."""
    console = Console(stderr=True)
    return console if console.is_terminal else Console(stderr=True, width=WIDTH)


def screen_out() -> Console:
    """Where answers go: as wide as a table needs where nobody's terminal sets the width."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, indent=1))


def command_line() -> str:
    """The command as it was typed."""
    return " ".join(["assay", *sys.argv[1:]])


def init(folder: Path) -> None:
    """Starts a project in a new or empty folder."""
    from assay.tasks.project import create

    made = create(folder)
    console = screen()
    for path in made:
        console.print(f"  wrote {path}", highlight=False)
    console.print(f"next: cd {folder} && assay run", highlight=False)


def run(
    params: Path,
    overrides: Sequence[str],
    only: str | None,
    force: Sequence[str],
    as_json: bool,
    server: bool,
    pool: str,
    runner: str,
) -> int:
    """Runs the pipeline and prints its table; the exit code says whether a gate failed."""
    check_stage(only)
    console = screen()
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not the answer
        result = run_pipeline(
            params, overrides, only, force, None, command_line(), server, True, as_json, console, pool, runner
        )
    if as_json:
        print_json(
            {
                "pipeline": result.pipeline,
                "report": str(result.report),
                "computed": result.computed,
                "seconds": round(result.seconds, 2),
                "overhead": result.overhead,
                **result.summary.to_json(),
            }
        )
        return result.exit_code if only is None else 0
    console.print(
        f"computed {result.computed} of {result.total} cells in {result.seconds:.1f} s", highlight=False, style="dim"
    )
    if only is not None:
        return 0
    console.print(table(result.summary))
    for gate in result.summary.gates:
        if not gate.passed:
            console.print(f"[red]gate failed[/] for {gate.variant}: {gate.gate}  {gate_text(gate)}", highlight=False)
    for what, why in result.summary.skipped:
        console.print(f"left out: {what}: {why}", highlight=False, markup=False, soft_wrap=True, style="dim")
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
    console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    console.print("pages:  assay ui   (MLflow and Prefect, on loopback)", highlight=False)
    return result.exit_code


def check_stage(name: str | None) -> None:
    """Raises BadInput where there is no such stage."""
    if name is not None and name not in STAGES:
        raise BadInput(f"there is no stage {name!r}: the stages are {', '.join(STAGES)}")


def gate_text(gate: Any) -> str:
    """Why a gate failed."""
    if gate.reason:
        return f"({gate.reason})"
    return f"({number(gate.value)} [{number(gate.low)}, {number(gate.high)}], bound {number(gate.bound)})"


def number(value: float, unit: str = "") -> str:
    """A number for people."""
    if value is None or math.isnan(value):
        return "–"
    if unit == "B":
        return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"
    return f"{value:.4g}{' ' + unit if unit else ''}"


def table(summary: Summary) -> Table:
    """Model, headline, size, latency, agreement with floor and ceiling, verdict."""
    shown = Table(title=f"pipeline {summary.pipeline}", title_justify="left")
    agreement = next((r for r in summary.rows if r.kind == "agreement" and r.model in summary.variants), None)
    costs = [row for row in summary.rows if row.model == "dense" and row.method.startswith("cost/")]
    firsts = [row for i, row in enumerate(costs) if row.method not in {c.method for c in costs[:i]}]
    shown.add_column("model")
    shown.add_column(summary.headline, justify="right")
    for row in firsts:
        shown.add_column(row.name, justify="right")
    if agreement is not None:
        for name in (agreement.name, "floor", "ceiling"):
            shown.add_column(name, justify="right")
        shown.add_column("maps")
    shown.add_column("gates")
    for model in summary.models:
        cells = [model, _value(summary.find(model, summary.headline))]
        cells += [_value(summary.find(model, row.method, row.field)) for row in firsts]
        if agreement is not None:
            cells += _agreement(summary.find(model, agreement.method, agreement.field, agreement.saliency))
        cells.append("" if model == "dense" else _gates(summary, model))
        shown.add_row(*cells)
    return shown


def _value(row: Row | None) -> str:
    return "–" if row is None else number(row.value, row.unit)


def _agreement(row: Row | None) -> list[str]:
    if row is None:
        return ["", "", "", ""]
    return [number(row.value), number(row.floor), number(row.ceiling), row.verdict]


def _gates(summary: Summary, variant: str) -> str:
    if not summary.gates:
        return "no gates"
    return "[green]passed[/]" if summary.variant_passed(variant) else "[red]failed[/]"


def plan(params: Path, overrides: Sequence[str], force: Sequence[str], all_: bool, remote: bool, as_json: bool) -> None:
    """Prints each cell with HIT or RUN and why. The store's remote is asked where `remote` says so only."""
    from assay.tasks.status import assume, needed, read_last, statuses

    session = open_session(params, overrides)
    status = statuses(session.plan, session.store, read_last(session.store), force)
    if remote:
        status = assume(status, remote_hits(session, status))
    todo = set(needed(session.plan, status))
    if as_json:
        rows = [
            {
                "cell": s.cell.label,
                "key": s.cell.key,
                "stage": s.cell.stage,
                "run": s.cell.key in todo,
                "hit": s.hit,
                "why": s.why,
            }
            for s in status
        ]
        print_json({"pipeline": session.plan.id, "cells": rows, "unseen": session.plan.unseen})
        return
    line = partial(Console().print, highlight=False, soft_wrap=True)
    for item in status:
        if item.cell.key in todo:
            line(f"RUN  {item.cell.label}  [dim]{item.cell.key[:8]}[/]  {item.why}")
        elif all_ and item.hit:
            line(f"HIT  {item.cell.label}  [dim]{item.cell.key[:8]}[/]")
        elif all_:
            line(f"–    {item.cell.label}  [dim]not needed[/]")
    for what, why in session.plan.skipped:
        line(f"left out: {what}: {why}")
    hits = sum(s.hit for s in status)
    if session.remote is not None and not remote:
        line(f"{session.remote.url} was not asked: `assay plan --remote` does it", style="dim")
    id = "pipeline: named once its data are here" if session.plan.unseen else f"pipeline {session.plan.id}"
    line(f"{len(todo)} cells to run, {hits} hits ({id})")


def remote_hits(session: Session, status: Sequence[Status]) -> set[Ref]:
    """What of a plan is in the store's remote; what is forced does not count. Raises BadInput without one."""
    if session.remote is None:
        raise BadInput("--remote: the params name no store.remote to ask")
    return session.remote.present(s.cell.ref for s in status if not s.why.startswith("--force"))


def stage(name: str, variant: str, params: Path) -> None:
    """Computes one stage without a server and writes its pointer files."""
    from assay.flows.stages import run_stage

    check_stage(name)
    run_stage(name, variant, params, command_line(), screen())


def find_report(project: Path, run: str) -> Path:
    """The report folder of a run, by the beginning of its id. Raises BadInput."""
    folders = sorted(p for p in (project / "reports").glob("*") if (p / "summary.json").exists())
    fit = [p for p in folders if p.name.startswith(run)]
    if len(fit) != 1:
        known = ", ".join(p.name[:8] for p in folders) or "none yet"
        raise BadInput(f"run {run!r} {'is unknown' if not fit else 'fits several runs'}: {known}")
    return fit[0]


def report(run: str, params: Path, overrides: Sequence[str], open_: bool) -> None:
    """Prints the path of a run's report, written again from the store for the params' own run."""
    if run:
        path = find_report(params.resolve().parent, run) / "report.html"
    else:
        from assay.flows.finish import write_again

        path = write_again(open_session(params, overrides, None, command_line()))
    print(path)
    if open_:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def compare(runs: Sequence[str], params: Path, as_json: bool) -> None:
    """The numbers of several finished runs side by side."""
    summaries: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        folder = find_report(params.resolve().parent, run)
        summaries[folder.name[:8]] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    names: dict[tuple[str, str, str], dict[str, float]] = {}
    for run, summary in summaries.items():
        for row in summary["rows"]:
            if row["model"] in summary["models"] and row["value"] is not None:
                named = Row(row["model"], row["kind"], row["method"], row["field"], row["saliency"], unit=row["unit"])
                names.setdefault((row["model"], named.name, named.unit), {})[run] = row["value"]
    if as_json:
        print_json([{"model": m, "number": name, "unit": u, **values} for (m, name, u), values in names.items()])
        return
    shown = Table("model", "number", *summaries)
    for (model, name, unit), values in names.items():
        shown.add_row(model, name, *(number(values[run], unit) if run in values else "–" for run in summaries))
    screen_out().print(shown)
