"""What the results' arrays show: per-class changes, confusions, reliability diagrams, curves.

A plot belongs to names of arrays, not to methods: any evaluator whose result has `per_class`,
`confusion`, or `confidence` with `accuracy` and `count` gets the plot; other one-dimensional arrays are
drawn as curves, and two-dimensional ones whose columns an array of texts names as a curve for each column.
Where a text array `plane` names two of these, the second is drawn over the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from assay.tasks.artifacts import load_result
from assay.tasks.cells import Ref
from assay.tasks.plan import DENSE, RANDOM, Plan
from assay.tasks.report import plots
from assay.tasks.report.words import say, say_change
from assay.tasks.store import Store

DIAGRAM = ("confidence", "accuracy", "count")
CLASSES = 24
PLANE = "plane"
STATIONS = 32
"""Arrays that are longer and have no axis are drawn sorted."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Change:
    """A class's number of one model; `heat` in [-1, 1] colours its change against the dense model."""

    shown: str
    change: str
    heat: float


@dataclass(frozen=True)
class ClassTable:
    """`per_class` of every model, the dense model's first; `note` says which classes are left out."""

    method: str
    classes: list[str]
    rows: list[tuple[str, list[Change]]]
    note: str
    confusions: list[tuple[str, str]]


@dataclass(frozen=True)
class Drawing:
    """A titled plot."""

    title: str
    plot: Markup
    note: str = ""


@dataclass
class Evidence:
    """Everything that is drawn from arrays."""

    classes: list[ClassTable] = field(default_factory=list)
    reliability: list[tuple[str, list[Drawing]]] = field(default_factory=list)
    curves: list[tuple[str, list[Drawing]]] = field(default_factory=list)


def evidence(plan: Plan, store: Store, classes: Sequence[str], colours: Mapping[str, str]) -> Evidence:
    """Reads the arrays of every evaluator and audit of a finished run."""
    found = Evidence()
    models = [DENSE, *plan.reseeded, *plan.variants]
    for method in dict.fromkeys(label for _, label in plan.evaluation):
        results = {m: _arrays(plan.evaluation[m, method], store) for m in models if (m, method) in plan.evaluation}
        table = class_table(method, results, classes, plan.variants)
        if table is not None:
            found.classes.append(table)
        diagrams = _diagrams(results)
        if diagrams:
            found.reliability.append((method, diagrams))
        drawn = tables_of(results) + curves_of({m: _rest(a) for m, a in results.items()}, colours)
        if drawn:
            found.curves.append((method, drawn))
    for saliency, method in dict.fromkeys((s, label) for _, s, label in plan.audit):
        keys = [m for m in [*models, RANDOM] if (m, saliency, method) in plan.audit]
        results = {m: _arrays(plan.audit[m, saliency, method], store) for m in keys}
        drawn = curves_of({m: _rest(a) for m, a in results.items()}, colours) if len(keys) > 1 else []
        if drawn:
            found.curves.append((f"{saliency}:{method}", drawn))
    return found


def _arrays(ref: Ref, store: Store) -> Arrays:
    folder = store.folder(ref.slot, ref.key)
    return load_result(folder).arrays if (folder / "result.json").exists() else {}


def _rest(arrays: Arrays) -> Arrays:
    """The one-dimensional arrays without a plot of their own."""
    taken = {"per_class", "confusion", PLANE, *_tables(arrays).values()}
    taken |= {*DIAGRAM, "edges"} if set(DIAGRAM) <= set(arrays) else set()
    return {name: a for name, a in arrays.items() if name not in taken and a.ndim == 1 and len(a) > 1}


def _tables(arrays: Arrays) -> dict[str, str]:
    """The two-dimensional arrays of numbers, each with the text array that names its columns."""
    texts = {len(a): name for name, a in arrays.items() if a.dtype.kind == "U" and a.ndim == 1 and name != PLANE}
    tables = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind in "iuf" and name != "confusion"}
    return {name: texts[a.shape[1]] for name, a in tables.items() if len(a) > 1 and a.shape[1] in texts}


# classes


def class_table(
    method: str, results: Mapping[str, Arrays], classes: Sequence[str], variants: Sequence[str]
) -> ClassTable | None:
    """The per-class numbers as a table of changes; None where the dense model has none."""
    base = results.get(DENSE, {}).get("per_class")
    if base is None or base.ndim != 1 or not len(base):
        return None
    others = {m: a["per_class"] for m, a in results.items() if m != DENSE and "per_class" in a}
    others = {m: a for m, a in others.items() if a.shape == base.shape}
    names = list(classes) if len(classes) == len(base) else [str(i) for i in range(len(base))]
    worst = np.max([np.nan_to_num(np.abs(a - base)) for a in others.values()] or [np.zeros(len(base))], axis=0)
    shown = np.sort(np.argsort(-worst, kind="stable")[:CLASSES])
    top = max(float(worst.max()), 0.02)
    finite = base[np.isfinite(base)]
    share = bool(len(finite)) and bool((finite >= 0).all() and (finite <= 1).all())
    rows = [(DENSE, [Change(say(float(base[i]), share=share), "", 0.0) for i in shown])]
    for model, values in others.items():
        cells = []
        for i in shown:
            change = float(values[i] - base[i])
            # The root keeps small changes visible beside one large one.
            heat = round(float(np.sign(change) * np.sqrt(abs(change) / top)), 3) if np.isfinite(change) else 0.0
            cells.append(Change(say(float(values[i]), share=share), say_change(change, share=share), heat))
        rows.append((model, cells))
    note = f"the {CLASSES} classes of {len(base)} that change most" if len(base) > CLASSES else ""
    confusions = [(v, _confusions(results[DENSE], results.get(v, {}), names)) for v in variants]
    return ClassTable(method, [names[i] for i in shown], rows, note, [(v, text) for v, text in confusions if text])


def _confusions(dense: Arrays, variant: Arrays, names: Sequence[str]) -> str:
    """The three mistakes that grew most, in words; '' where none did or nothing is known."""
    before, now = dense.get("confusion"), variant.get("confusion")
    if before is None or now is None or before.shape != now.shape or before.shape != (len(names),) * 2:
        return ""
    grown = (now - before).astype(float)
    np.fill_diagonal(grown, 0)
    order = np.argsort(-grown, axis=None, kind="stable")[:3]
    pairs = [divmod(int(at), len(names)) for at in order]
    return ", ".join(f"{names[a]} taken for {names[b]} (+{grown[a, b]:.0f})" for a, b in pairs if grown[a, b] > 0)


# reliability


def _diagrams(results: Mapping[str, Arrays]) -> list[Drawing]:
    drawn = []
    for model, arrays in results.items():
        if not set(DIAGRAM) <= set(arrays):
            continue
        confidence, accuracy, count = (np.asarray(arrays[name], dtype=float) for name in DIAGRAM)
        if confidence.ndim == 1 and confidence.shape == accuracy.shape == count.shape:
            plot = plots.reliability(confidence, accuracy, count, f"Reliability diagram of {model}")
            if plot:
                drawn.append(Drawing(model, plot))
    return drawn


# curves


def curves_of(results: Mapping[str, Arrays], colours: Mapping[str, str]) -> list[Drawing]:
    """One plot for each one-dimensional array of numbers, a line for each model."""
    results = {model: {n: a for n, a in arrays.items() if a.ndim == 1} for model, arrays in results.items()}
    names = dict.fromkeys(name for arrays in results.values() for name, a in arrays.items() if a.dtype.kind in "iufb")
    axis = _axis(results, list(names))
    drawn = []
    for name in names:
        if name == axis:
            continue
        lines, label, note = [], "position", ""
        for model, arrays in results.items():
            if name not in arrays:
                continue
            x, y, label = _points(arrays, name, axis)
            texts = next((a for a in arrays.values() if a.dtype.kind == "U" and len(a) == len(y)), np.array([]))
            dashed = model == RANDOM or model.startswith("reseeded-")
            lines.append(plots.Line(model, x.tolist(), y.tolist(), colours[model], dashed, texts.tolist()))
        if label == "share of values":
            note = "sorted, without the outer 5 % at each end"
        plot = plots.curves(lines, label, f"{name} by {label}", lambda v: say(v))
        if plot:
            drawn.append(Drawing(name, plot, note))
    return drawn


def tables_of(results: Mapping[str, Arrays]) -> list[Drawing]:
    """For each model a plot for each two-dimensional array with named columns, a line a column, after its plane."""
    drawn = []
    for model, arrays in results.items():
        tables = _tables(arrays)
        flat = {name: a for name, a in arrays.items() if a.ndim == 1 and a.dtype.kind in "iuf"}
        axis = _axis({model: flat}, list(flat))
        plane = [str(name) for name in arrays.get(PLANE, ())]
        if len(plane) == 2 and set(plane) <= set(tables):
            way = f"{model}, from the first {axis or 'row'} to the dot"
            drawn.append(Drawing(f"{plane[1]} over {plane[0]}", _table(arrays, plane[1], plane[0], axis), way))
        drawn += [Drawing(name, _table(arrays, name, None, axis), model) for name in tables]
    return [one for one in drawn if one.plot]


def _table(arrays: Arrays, name: str, over: str | None, axis: str | None) -> Markup:
    """The columns of an array over the axis (their positions where it is another length), or over those of another."""
    y, names = np.asarray(arrays[name], dtype=float), arrays[_tables(arrays)[name]]
    if axis is None or len(arrays[axis]) != len(y):
        axis = None
    along = np.arange(1.0, len(y) + 1) if axis is None else np.asarray(arrays[axis], dtype=float)
    x = np.asarray(arrays[over], dtype=float) if over else np.broadcast_to(along[:, None], y.shape)
    stations = [f"{axis or 'row'} {at:g}" for at in along] if over else []
    lines = []
    for i, shown in enumerate(names):
        colour = f"color-mix(in oklch, var(--high) {100 * i // max(len(names) - 1, 1)}%, var(--low))"
        lines.append(plots.Line(str(shown), x[:, i].tolist(), y[:, i].tolist(), colour, names=stations))
    label = (over or axis or "position").replace("_", " ")
    return plots.curves(
        lines, label, f"{name} by {label}", lambda v: say(v), name.replace("_", " ") if over else "", True
    )


def _axis(results: Mapping[str, Arrays], names: Sequence[str]) -> str | None:
    """The array that is an axis to the others: strictly increasing and the same for every model."""
    for name in names:
        found = [arrays[name] for arrays in results.values() if name in arrays]
        rising = bool((np.diff(found[0].astype(float)) > 0).all())
        if rising and all(a.shape == found[0].shape and np.array_equal(a, found[0]) for a in found):
            return name
    return None


def _points(arrays: Arrays, name: str, axis: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Where to draw an array: over its axis, over its positions, or, where it is long, sorted."""
    y = np.asarray(arrays[name], dtype=float)
    if axis is not None and axis in arrays and len(arrays[axis]) == len(y):
        return np.asarray(arrays[axis], dtype=float), y, axis
    if len(y) <= STATIONS:
        return np.arange(1, len(y) + 1, dtype=float), y, "position"
    at = np.linspace(0.05, 0.95, 91)
    finite = y[np.isfinite(y)]
    return at, (np.quantile(finite, at) if len(finite) else np.full(len(at), np.nan)), "share of values"
