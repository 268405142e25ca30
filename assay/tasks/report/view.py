"""What the page shows, put together from a finished run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from assay.tasks.artifacts import load_result
from assay.tasks.gates import parse_gate
from assay.tasks.plan import DENSE, RANDOM, Plan
from assay.tasks.report import plots, words
from assay.tasks.report.svg import LINES
from assay.tasks.report.words import VERDICTS, Words, say
from assay.tasks.store import Store
from assay.tasks.summary import GateRow, Row, Summary


@dataclass(frozen=True)
class Glance:
    """A model in the first table: its headline numbers, None where there is none."""

    model: str
    role: str
    headline: Row | None
    size: Row | None
    latency: Row | None
    agreement: Row | None
    gates: list[GateRow]
    smaller: str = ""
    faster: str = ""
    gauge: Markup | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the variant passes its gates; None where it has none."""
        return all(gate.passed for gate in self.gates) if self.gates else None


@dataclass(frozen=True)
class Judged:
    """A gate's judgement of a variant in words."""

    passed: bool
    value: str
    bound: str
    tip: str


@dataclass(frozen=True)
class Panel:
    """A plot of one number of every model."""

    name: str
    plot: Markup
    definition: str
    better: str
    rows: list[Row] = field(default_factory=list)


def shares(plan: Plan, store: Store) -> frozenset[tuple[str, str]]:
    """The numbers that are shares of examples: means of values that are 0 or 1."""
    found = set()
    refs = [(label, ref) for (_, label), ref in plan.evaluation.items()]
    for label, ref in refs:
        folder = store.folder(ref.slot, ref.key)
        numbers = load_result(folder).numbers if (folder / "result.json").exists() else {}
        for name, number in numbers.items():
            each = None if number.each is None else number.each[np.isfinite(number.each)]
            if each is not None and len(each) and bool(np.isin(each, (0, 1)).all()):
                found.add((label, name))
    return frozenset(found)


def colours(plan: Plan) -> dict[str, str]:
    """A CSS colour for each model's curves."""
    found = {DENSE: "var(--ink)", RANDOM: "var(--faint)", **dict.fromkeys(plan.reseeded, "var(--muted)")}
    return {**found, **{v: f"var(--m{i % LINES})" for i, v in enumerate(plan.variants)}}


# the first table


def _first(summary: Summary, fits: Callable[[Row], bool]) -> Row | None:
    return next((row for row in summary.rows if row.model == DENSE and row.kind == "evaluate" and fits(row)), None)


def _same(summary: Summary, model: str, like: Row | None) -> Row | None:
    """The number that `like` is, of another model."""
    return None if like is None else summary.find(model, like.method, like.field) or summary.find(model, like.method)


def glances(plan: Plan, summary: Summary) -> list[Glance]:
    """The dense model, its retrainings and every variant by headline number, size, latency, agreement."""
    head = summary.find(DENSE, summary.headline)
    size = _first(summary, lambda row: row.unit == "B")
    latency = _first(summary, lambda row: row.timing)
    compared = next((row for row in summary.rows if row.kind == "agreement"), None)
    found = []
    for model in [DENSE, *plan.reseeded, *plan.variants]:
        own_size, own_latency = _same(summary, model, size), _same(summary, model, latency)
        agreement = summary.find(model, compared.method, "", compared.saliency) if compared is not None else None
        found.append(
            Glance(
                model,
                words.role(model, summary),
                _same(summary, model, head),
                own_size,
                own_latency,
                agreement,
                [gate for gate in summary.gates if gate.variant == model],
                _ratio(own_size, size, "smaller", "larger"),
                _ratio(own_latency, latency, "faster", "slower"),
                _gauge(agreement),
            )
        )
    return found


def _ratio(row: Row | None, dense: Row | None, less: str, more: str) -> str:
    return "" if row is None or dense is None else words.say_ratio(row.value, dense.value, less, more)


def _gauge(row: Row | None) -> Markup | None:
    if row is None:
        return None
    tip = f"{row.name} {say(row.value)} between floor {say(row.floor)} and ceiling {say(row.ceiling)}"
    return plots.gauge(row.value, row.floor, row.ceiling, verdict_css(row), tip)


def verdict_css(row: Row) -> str:
    """The colour class of a row's verdict."""
    return VERDICTS[row.verdict][0] if row.verdict in VERDICTS else "mute"


def gate_table(summary: Summary, say_as: Words) -> list[tuple[str, list[Judged]]]:
    """Each gate with what it says of every variant."""
    return [
        (text, [judged(gate, summary, say_as) for gate in summary.gates if gate.gate == text])
        for text in dict.fromkeys(gate.gate for gate in summary.gates)
    ]


def judged(gate: GateRow, summary: Summary, say_as: Words) -> Judged:
    """What a gate says of a variant, in words."""
    parsed = parse_gate(gate.gate)
    row = summary.find(gate.variant, parsed.method, parsed.field, parsed.saliency)
    if row is None or not math.isfinite(gate.value):
        return Judged(gate.passed, gate.reason or "no number", "", gate.reason)
    show = say_as.drop if parsed.drop else say_as.number
    end = gate.high if parsed.op.startswith("<") else gate.low
    bound = f"at worst {show(row, end)}, limit {show(row, gate.bound)}"
    tip = f"{gate.variant}: {show(row, gate.value)}, unfavourable end of the 95 % interval {show(row, end)}, "
    tip += f"{'meets' if gate.passed else 'does not meet'} {parsed.op} {show(row, gate.bound)}"
    return Judged(gate.passed, show(row, gate.value), bound, tip)


# plots


def trade_offs(lines: Sequence[Glance], say_as: Words) -> list[tuple[str, Markup]]:
    """The headline number against size and against latency, coloured by agreement."""
    drawn = []
    for name in ("size", "latency"):
        points, shown, across = [], None, None
        for one in lines:
            row, head = getattr(one, name), one.headline
            if row is None or head is None:
                continue
            shown, across = head, row
            tip = "; ".join(say_as.tip(r) for r in (head, row, one.agreement) if r is not None)
            points.append(plots.Point(one.model, row.value, head.value, head.low, head.high, _colour(one), tip))
        if shown is None or across is None:
            continue
        plot = plots.scatter(
            points,
            f"{shown.name} against {across.name}",
            across.name,
            shown.name,
            _in(say_as, across),
            _in(say_as, shown),
        )
        if plot:
            drawn.append((f"{shown.name} against {across.name}", plot))
    return drawn


def _in(say_as: Words, row: Row) -> Callable[[float], str]:
    return lambda value: say_as.number(row, value)


def _colour(one: Glance) -> str:
    """Where the agreement lies between its floor (0) and its ceiling (1), as a colour."""
    row = one.agreement
    if one.role != "variant":
        return ""
    known = row is not None and all(math.isfinite(v) for v in (row.value, row.floor, row.ceiling))
    if row is None or not known or (row.direction or 1) * (row.ceiling - row.floor) <= 0:
        return "var(--faint)"
    place = min(max((row.value - row.floor) / (row.ceiling - row.floor), 0.0), 1.0)
    return f"color-mix(in oklab, var(--high) {100 * place:.0f}%, var(--low))"


def panels(plan: Plan, summary: Summary, say_as: Words, kind: str) -> list[Panel]:
    """A plot for each saliency and each number of the kind (`agreement` or `audit`)."""
    rows = [row for row in summary.rows if row.kind == kind]
    names = dict.fromkeys((r.method, r.field, r.saliency) for r in rows if not _is_control(r.saliency) and r.direction)
    found = []
    for method, number, saliency in names:
        own = [r for r in rows if (r.method, r.saliency) == (method, saliency) and (r.field == number or r.silent)]
        models = [r for r in own if r.model in (DENSE, *plan.reseeded, *plan.variants)]
        marks = [(_control(r.model), r.value) for r in own if r.model == RANDOM or _is_control(r.model)]
        fixed = [r for r in rows if (r.method, r.field) == (method, number) and _is_control(r.saliency)]
        marks += [(_control(r.saliency), r.value) for r in fixed]
        like = next((r for r in models if math.isfinite(r.value)), None)
        if like is None:
            continue
        bars = [_bar(r, say_as) for r in models]
        plot = plots.intervals(bars, like.floor, like.ceiling, marks, f"{like.name} by model", _in(say_as, like))
        better = "more is better" if like.direction > 0 else "less is better"
        variants = [r for r in models if r.model in plan.variants]
        found.append(Panel(like.name, plot, like.definition, better, variants))
    return found


def _is_control(name: str) -> bool:
    return name.startswith("control:")


def _control(model: str) -> str:
    return "randomly initialised model" if model == RANDOM else f"{model.removeprefix('control:')} maps"


def _bar(row: Row, say_as: Words) -> plots.Bar:
    css = verdict_css(row)
    return plots.Bar(row.model, row.value, row.low, row.high, css, say_as.tip(row))


def without_panel(summary: Summary, kind: str, shown: Sequence[Panel]) -> list[Row]:
    """Rows without a number, where no model has one to draw."""
    drawn = {(row.model, row.name) for panel in shown for row in panel.rows}
    found = [r for r in summary.rows if r.kind == kind and r.model in summary.variants and r.reason]
    return [r for r in found if (r.model, r.name) not in drawn]
