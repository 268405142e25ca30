"""study, search."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from assay.flows.commands.runs import command_line, number, print_json, screen
from assay.flows.study import Study, run_study
from assay.plugins import registry
from assay.plugins.values import BadInput
from assay.tasks.reading import read_yaml
from assay.tasks.report.study import table_of


def method_of(kind: str, name: str, given: Sequence[str]) -> Any:
    """The method with its parameters. Raises BadInput."""
    fields: dict[str, Any] = {"name": name}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign:
            raise BadInput(f"--with {text!r}: it must read parameter=value")
        fields[key.strip()] = read_yaml(value, f"--with {key}")
    try:
        return registry.make(kind, fields, kind)
    except ValueError as error:
        raise BadInput(str(error)) from error


def space_of(axes: Sequence[str]) -> dict[str, list[Any]]:
    """The space of a search, from `path=[value, …]`. Raises BadInput."""
    space: dict[str, list[Any]] = {}
    for text in axes:
        path, sign, value = text.partition("=")
        values = read_yaml(value, f"--space {path}") if sign else None
        if not isinstance(values, list) or not values or path in space:
            raise BadInput(f"--space {text!r}: it must read path=[value, value], each path once")
        space[path.strip().removeprefix("train.")] = values
    if not space:
        raise BadInput("a search needs at least one --space path=[value, value]")
    return space


def study(
    kind: str,
    name: str,
    given: Sequence[str],
    axes: Sequence[str] | None,
    params: Path,
    overrides: Sequence[str],
    force: bool,
    as_json: bool,
    server: bool,
    pool: str,
    runner: str,
) -> None:
    """Runs a study or a search and prints its answer, its numbers and its table."""
    method = method_of(kind, name, given)
    space = None if axes is None else space_of(axes)
    console = screen()
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is not the answer
        asked = (kind, method, params, overrides, space, force, None, command_line())
        found = run_study(*asked, server, True, as_json, console, pool, runner)
    if as_json:
        print_json(answer(found))
        return
    console.print(f"computed {found.computed} cells in {found.seconds:.1f} s", highlight=False, style="dim")
    columns = table_of(found.result)
    if columns:
        shown = Table(*columns)
        for row in zip(*columns.values(), strict=True):
            shown.add_row(*map(escape, row))
        console.print(shown)
    for key, one in found.result.numbers.items():
        console.print(f"{key}: {number(one.value, one.unit)}  [dim]{one.definition}[/]", highlight=False)
    if kind == "study":
        console.print(f"[bold]{found.answer}[/]", highlight=False)
    else:
        sets = " ".join(f"--set {shlex.quote(text)}" for text in found.sets)
        console.print(f"best: assay run {sets}", highlight=False, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
    console.print(f"page: {found.page}", highlight=False, soft_wrap=True)


def answer(found: Study) -> dict[str, Any]:
    """A finished study or search as plain JSON values."""
    return {
        found.kind: found.name,
        "answer": found.answer,
        "page": str(found.page),
        "computed": found.computed,
        "seconds": round(found.seconds, 2),
        "numbers": {name: one.value for name, one in found.result.numbers.items()},
        "table": table_of(found.result),
        "notes": list(found.notes),
    }
