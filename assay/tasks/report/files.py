"""What stands beside the page: every number as CSV, and a model card."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from assay.tasks.plan import DENSE, Plan
from assay.tasks.report.view import judged
from assay.tasks.report.words import NONE, Words, count, listing, params_text, predicting, title
from assay.tasks.results import chain_of
from assay.tasks.summary import Row, Summary


def write_csv(path: Path, summary: Summary) -> None:
    """Every number with all its columns; what is missing is empty."""
    columns = [field.name for field in fields(Row)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *columns])
        for row in summary.rows:
            writer.writerow([row.name, *(cell(getattr(row, column)) for column in columns)])


def cell(value: Any) -> Any:
    """A value as it stands in a CSV file; empty where it is not finite."""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    return value


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(escape(cell) for cell in line) + " |" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\`*_{}[]<>|#":
        text = text.replace(sign, "\\" + sign)
    return text.replace("\n", " ")


def write_card(path: Path, plan: Plan, summary: Summary, words: Words, facts: Mapping[str, Any]) -> None:
    """The models of a run, what they are good for and how far to trust them."""
    evaluated = [row for row in summary.rows if row.kind == "evaluate" and row.model in summary.models]
    attributed = [row for row in summary.rows if row.kind != "evaluate" and row.model in summary.variants]
    parts = [
        "# Model card",
        f"Pipeline `{summary.pipeline}`, {facts.get('created', '')}",
        "## Verdict",
        title(summary)[0] + ".",
    ]
    parts += [
        _gates(summary, words),
        "## Models",
        _models(plan),
        escape(predicting(plan.params.predict)),
        "## Data",
        _data(facts),
    ]
    parts += ["## Measured on the test split", _numbers(evaluated, summary.models, words)]
    if any(row.timing for row in evaluated):
        parts.append("Times were measured on one machine and hold for it alone.")
    if attributed:
        parts += [
            "## Do the variants look at the same evidence?",
            f"Intervals are 95 %, {summary.seeds}.",
            _attributed(attributed, words),
        ]
    parts += ["## Limits", _limits(plan, summary), "## How it was made", _made(plan, facts)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _gates(summary: Summary, words: Words) -> str:
    rows = []
    for gate in summary.gates:
        said = judged(gate, summary, words)
        rows.append([gate.variant, gate.gate, "passes" if gate.passed else "fails", said.value, said.bound or "none"])
    return table(["variant", "gate", "result", "value", "judged by"], rows) if rows else "No gates were set."


def _models(plan: Plan) -> str:
    rows = [[DENSE, "trained", plan.models[DENSE].key]]
    for variant in plan.variants:
        chain = " → ".join(
            f"{link['id'].removeprefix('compress/')} ({params_text(link['params'])})"
            for link in chain_of(plan, variant)
        )
        rows.append([variant, chain, plan.models[variant].key])
    return table(["model", "made by", "key"], rows)


def _data(facts: Mapping[str, Any]) -> str:
    lines = []
    for one in facts.get("data", []):
        name, version = escape(str(one.get("name", ""))), one.get("version", "")
        sizes = ", ".join(f"{split} {size:,}" for split, size in one.get("sizes", {}).items())
        classes = len(one.get("classes", []))
        known = f", {count(classes, 'class', 'classes')}" if classes else ""
        lines.append(f"- {name}, version `{version}`: {sizes}; shape {list(one.get('shape', []))}{known}")
    return "\n".join(lines) or "Not recorded."


def _numbers(rows: Sequence[Row], models: Sequence[str], words: Words) -> str:
    measured = dict.fromkeys((row.method, row.name) for row in rows if not row.silent)
    answered = {method for method, _ in measured}
    silent = dict.fromkeys((row.method, row.name) for row in rows if row.silent and row.method not in answered)
    lines = []
    for method, name in [*measured, *silent]:
        cells = []
        for model in models:
            own = [row for row in rows if row.model == model and row.method == method]
            row = next((r for r in own if r.silent or r.name == name), None)
            cells.append(NONE if row is None else _said(row, words))
        lines.append([name, *cells])
    return table(["number", *models], lines)


def _said(row: Row, words: Words) -> str:
    if not math.isfinite(row.value):
        return f"not auditable: {row.reason}" if row.reason else "not a number"
    interval = words.interval(row)
    return f"{words.value(row)} ({interval})" if interval else words.value(row)


def _attributed(rows: Sequence[Row], words: Words) -> str:
    lines = []
    for row in rows:
        floor, ceiling = words.number(row, row.floor), words.number(row, row.ceiling)
        verdict = row.verdict or NONE
        lines.append([row.model, row.name, _said(row, words), floor, ceiling, f"{row.n:,}", verdict])
    return table(["variant", "number", "value", "floor", "ceiling", "n", "verdict"], lines)


def _limits(plan: Plan, summary: Summary) -> str:
    lines = [
        "- The numbers hold for the test split named above, not for data that differ from it.",
        f"- Intervals are {summary.seeds}: they do not cover what other training seeds would give beyond that.",
    ]
    if summary.collapsed:
        lines.append(
            "- Not auditable: " + "; ".join(f"{escape(v)}: {escape(why)}" for v, why in summary.collapsed.items()) + "."
        )
    if plan.params.attribute.saliency:
        lines.append(
            "- Like maps do not prove like reasons: agreement compares what saliency methods show, within their limits."
        )
    return "\n".join(lines)


def _made(plan: Plan, facts: Mapping[str, Any]) -> str:
    versions = listing([f"{name} {version}" for name, version in facts.get("versions", {}).items()])
    lines = [
        f"- command: `{facts.get('command', '')}`",
        f"- git commit: {facts.get('git') or 'not recorded'}",
        f"- versions: {escape(versions)}",
    ]
    lines.append(f"- seeds: global {plan.params.seed}, train {plan.params.section_seed('train')}")
    return "\n".join(lines)
