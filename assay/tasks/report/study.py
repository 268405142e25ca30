"""The page of a study or a search: its verdict, its numbers, its curves, and the table behind them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from assay.plugins.values import Result
from assay.tasks.report import page as shell
from assay.tasks.report.arrays import curves_of
from assay.tasks.report.words import say


def write_study(folder: Path, kind: str, method: Any, result: Result, answer: Any, facts: Mapping[str, Any]) -> Path:
    """Writes `<kind>.html`, `<kind>.csv` and `<kind>.json` into `folder` and returns the page's path. `answer` is
    a study's verdict, or the changes that a search found best."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = table_of(result)
    with open(folder / f"{kind}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    numbers = {name: number.value for name, number in result.numbers.items()}
    told = json.dumps({"answer": answer, "numbers": numbers}, indent=1, default=str)
    (folder / f"{kind}.json").write_text(told + "\n", encoding="utf-8")
    page = folder / f"{kind}.html"
    page.write_text(render(kind, method, result, columns, answer, facts), encoding="utf-8")
    return page


def table_of(result: Result) -> dict[str, list[str]]:
    """The one-dimensional arrays of the commonest length, as columns of text."""
    flat = {name: values for name, values in result.arrays.items() if values.ndim == 1}
    lengths = [len(values) for values in flat.values()]
    if not lengths:
        return {}
    rows = max(dict.fromkeys(lengths), key=lengths.count)
    return {name: [shown(v) for v in values] for name, values in flat.items() if len(values) == rows}


def shown(value: Any) -> str:
    """One entry of the table."""
    return say(float(value)) if np.issubdtype(type(value), np.floating) else str(value)


def render(
    kind: str, method: Any, result: Result, columns: Mapping[str, list[str]], answer: Any, facts: Mapping[str, Any]
) -> str:
    """The page as text."""
    said = answer if kind == "study" else ", ".join(f"{path} = {value}" for path, value in answer.items())
    known = {
        "kind": kind,
        "title": said or "no answer",
        "status": "mute",
        "name": f"{kind} {method.method_name()}",
        "lead": " ".join((type(method).__doc__ or "").split("\n\n")[0].split()),
        "findings": [],
        "note": f"{method.card.title} claims: {method.card.claim}" if method.card.claim else "",
        "beside": f"{kind}.csv with the table, {kind}.json",
        "parameters": method.model_dump(mode="json"),
        "numbers": [(name, say(n.value), n.unit, n.definition) for name, n in result.numbers.items()],
        "drawings": curves_of({method.method_name(): result.arrays}, {method.method_name(): "var(--m0)"}),
        "columns": columns,
        "rows": list(zip(*columns.values(), strict=True)),
        "facts": facts,
    }
    return shell.render("study", known)
