"""sweep."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from assay.flows.commands.runs import command_line, number, print_json, screen
from assay.flows.runners import open_pool
from assay.flows.session import project_of
from assay.flows.sweep import SweepResult, plan_sweep, run_sweep
from assay.flows.sweep.points import Sweep
from assay.tasks.report.sweep import gates, maps
from assay.tasks.sweep import parse_axis, product, read_list, say
from assay.tasks.sweep_table import Measured, Metric, PointResult, SweepTable, short_names, to_json

MAX_SHOWN = 40


def sweep(
    grid: Sequence[str] | None,
    zipped: Sequence[str] | None,
    listed: Path | None,
    params: Path,
    overrides: Sequence[str] | None,
    metrics: Sequence[str] | None,
    variant: str,
    dry_run: bool,
    as_json: bool,
    server: bool,
    pool: str,
    runner: str,
) -> int:
    """Runs the points, or with `dry_run` only plans them; returns the exit code."""
    points = product(
        [parse_axis("--grid", text) for text in grid or ()],
        [parse_axis("--zip", text) for text in zipped or ()],
        read_list(listed) if listed is not None else [],
    )
    asked = (points, params, overrides or (), metrics or (), variant, None, command_line())
    if dry_run:
        with open_pool(project_of(params, None), pool, runner, server) as machines:
            show_plan(plan_sweep(*asked, machines.device() if machines else None), as_json)
        return 0
    console = screen()
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not the answer
        result = run_sweep(*asked, server, True, as_json, console, pool, runner)
    if as_json:
        print_json(answer(result))
    else:
        show(result, console)
    return result.exit_code


def answer(result: SweepResult) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "sweep": result.id,
        "page": str(result.page),
        "csv": str(result.csv),
        "computed": result.computed,
        "total": result.total,
        "seconds": round(result.seconds, 2),
        "passed": result.passed,
        "points": to_json(result.table),
        "notes": list(result.notes),
    }


def show_plan(planned: Sweep, as_json: bool) -> None:
    """Prints the points, and how many of their cells must run."""
    status = planned.statuses()
    missing = planned.missing(status)
    run_first = Counter(missing.values())
    rows = [(part, len(part.plan.cells), run_first[part.point.number]) for part in planned.parts]
    if as_json:
        points = [
            {"point": part.point.number, "values": dict(part.point.values), "pipeline": part.plan.id, "run": run}
            for part, _, run in rows
        ]
        print_json({"sweep": planned.id, "cells": len(planned.cells), "run": len(missing), "points": points})
        return
    console = Console()
    for part, total, run in rows:
        text = f"point {part.point.number}: {part.point.name}  ({total} cells, {run} to run that none before it needs)"
        console.print(text, highlight=False, markup=False)
    if planned.session.remote is not None:
        console.print(f"{planned.session.remote.url} was not asked", highlight=False, style="dim", soft_wrap=True)
    hits = sum(item.hit for item in status)
    all_ = f"{len(planned.parts)} points, {len(planned.cells)} cells: {len(missing)} to run, {hits} hits"
    console.print(f"{all_} (sweep {planned.id})", highlight=False)


def show(result: SweepResult, console: Console) -> None:
    """Prints the table and where everything is."""
    text = f"computed {result.computed} of {result.total} cells in {result.seconds:.1f} s"
    console.print(text, highlight=False, style="dim")
    chosen = choose(result.table)
    console.print(table(result.table, chosen))
    left_out = len(result.points) - len(chosen)
    if left_out:
        console.print(f"{left_out} points more: {result.csv}", highlight=False, soft_wrap=True)
    for failed in result.table.failed[:MAX_SHOWN]:
        text = f"point {failed.point.number} failed ({failed.point.name}): {failed.failure}"
        console.print(text, highlight=False, markup=False, soft_wrap=True, style="red")
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
    console.print("dvc.lock is not touched and nothing is registered: a sweep looks, `assay run` decides", style="dim")
    console.print(f"page: {result.page}", highlight=False, soft_wrap=True)


def choose(table: SweepTable) -> list[PointResult]:
    """The points to print: all where they are few, else the failed and the best ones."""
    if len(table.results) <= MAX_SHOWN:
        return table.results
    metric = table.decisive
    ranked = [r for model in reversed(table.models) if metric for r, _ in table.ranked(model, metric)]
    first = [*table.failed[: MAX_SHOWN // 4], *ranked, *table.results]
    wanted = list(dict.fromkeys(result.point.number for result in first))[:MAX_SHOWN]
    return [result for result in table.results if result.point.number in set(wanted)]


def table(found: SweepTable, results: Sequence[PointResult]) -> Table:
    """Each point's values, and for each of its models the numbers, the verdict on its maps and its gates."""
    shown = Table(title=f"sweep {found.id}", title_justify="left")
    shown.add_column("point", justify="right")
    names = short_names(found.paths)
    for path in found.paths:
        shown.add_column(names[path], justify="right")
    shown.add_column("model")
    for metric in found.metrics:
        for name in (metric.name, *(("floor", "ceiling") if controlled(metric) else ())):
            shown.add_column(name, justify="right")
    agreement = any(maps(r.summary, model) for r in found.done if r.summary for model in found.models)
    judged = any(r.summary.gates for r in found.done if r.summary)
    for name, wanted in (("maps", agreement), ("gates", judged)):
        if wanted:
            shown.add_column(name)
    for result in results:
        values = [say(result.point.values[path]) if path in result.point.values else "·" for path in found.paths]
        head = [str(result.point.number), *values]
        if result.summary is None:
            shown.add_row(*head, "[red]failed[/]")
            continue
        for model in (model for model in found.models if model in result.summary.models):
            numbers = [
                cell for metric in found.metrics for cell in cells(metric, found.measured(result, model, metric))
            ]
            more = [maps(result.summary, model)] if agreement else []
            more += [gates(result.summary, model)] if judged else []
            shown.add_row(*head, model, *numbers, *more)
            head = [""] * len(head)
    return shown


def controlled(metric: Metric) -> bool:
    """Whether a number stands between a floor and a ceiling: those of maps do."""
    return bool(metric.saliency) and not metric.drop


def cells(metric: Metric, found: Measured | None) -> list[str]:
    """A number, and its controls where it has such."""
    if not controlled(metric):
        return [text(found)]
    return [text(found), *(["", ""] if found is None else [number(found.row.floor), number(found.row.ceiling)])]


def text(found: Measured | None) -> str:
    """A number with its interval."""
    if found is None or not math.isfinite(found.value):
        return "–"
    unit = found.row.unit
    if found.low == found.high or not math.isfinite(found.low + found.high):
        return number(found.value, unit)
    return f"{number(found.value, unit)} [dim][{number(found.low)}, {number(found.high)}][/]"
