"""Every number of a run with its interval, its controls and its verdict; and what the gates say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.plugins import registry
from assay.plugins.values import Number
from assay.tasks.artifacts import load_data, load_result, not_auditable, read_json
from assay.tasks.askable import NO_RECIPE
from assay.tasks.cells import Ref, entry
from assay.tasks.job import seed_for
from assay.tasks.judge import gate_rows
from assay.tasks.params import labels
from assay.tasks.plan import DENSE, RANDOM, Plan
from assay.tasks.stats import mean_interval, paired_bootstrap, paired_bootstrap_seeds, verdict
from assay.tasks.store import Store
from assay.tasks.summary import NAN, Row, Summary

Numbers = Sequence[Mapping[str, Number]]


@dataclass
class Reader:
    """Reads a finished plan's answers from the store."""

    plan: Plan
    store: Store

    def folder(self, ref: Ref) -> Path:
        """Where an artifact is."""
        return self.store.folder(ref.slot, ref.key)

    def numbers(self, ref: Ref | None) -> dict[str, Number]:
        """The numbers of an answer; none where it was not auditable."""
        if ref is None:
            return {}
        return dict(load_result(self.folder(ref)).numbers)

    def reason(self, ref: Ref) -> str:
        """Why an answer has no numbers."""
        return not_auditable(self.folder(ref))


def summarise(plan: Plan, store: Store) -> Summary:
    """All numbers of a finished run."""
    reader = Reader(plan, store)
    collapsed = dict(_collapsed(reader))
    rows = [*_evaluation_rows(reader), *_agreement_rows(reader, collapsed), *_audit_rows(reader, collapsed)]
    problem = registry.make("problems", load_data(reader.folder(plan.data["main"])).spec.problem)
    n = plan.params.attribute.reseeds if plan.params.train.retrains else 0
    return Summary(
        pipeline=plan.id,
        models=[DENSE, *plan.variants],
        variants=plan.variants,
        headline=problem.headline,
        rows=rows,
        gates=gate_rows(plan, rows),
        seeds=f"over images and {n} reseeds" if n >= 3 else f"over images only ({n} reseed{'s' if n > 1 else ''})",
        collapsed=collapsed,
        skipped=plan.skipped,
    )


def _collapsed(reader: Reader) -> Iterator[tuple[str, str]]:
    """Variants whose predictions say nothing, and why."""
    first = next(iter(labels(reader.plan.params.attribute.saliency)), "")
    for variant in reader.plan.variants if first else []:
        path = reader.folder(reader.plan.saliency[variant, first]) / "kept.json"
        if not path.exists():
            continue
        facts = read_json(path)
        if facts["constant"]:
            yield variant, "its predictions are all the same"
        elif facts["error"] is not None and facts["error"] >= facts["chance"] - 2 * facts["chance_error"]:
            yield variant, f"its error ({facts['error']:.3g}) is no better than chance ({facts['chance']:.3g})"


def _seed(plan: Plan) -> int:
    """One seed for all intervals: the same resamples of the images, so that they compare."""
    return seed_for(plan.params.seed, "bootstrap") % 2**32


def _row(model: str, kind: str, method: str, name: str, number: Number, seed: int, **more: Any) -> Row:
    row = Row(
        model,
        kind,
        method,
        name,
        value=number.value,
        unit=number.unit,
        direction=number.direction,
        definition=number.definition,
        **more,
    )
    if number.each is None:
        row.low = row.high = number.value
    else:
        row.n = int(np.isfinite(number.each).sum())
        _, row.low, row.high = mean_interval(number.each, seed)
    return row


def _evaluation_rows(reader: Reader) -> Iterator[Row]:
    plan = reader.plan
    methods = dict(zip(labels(plan.params.evaluate), plan.params.evaluate, strict=True))
    for label, method in methods.items():
        timing = "machine" in method.card.needs
        dense = reader.numbers(plan.evaluation[DENSE, label])
        for model in [DENSE, *plan.reseeded, *plan.variants]:
            ref = plan.evaluation.get((model, label))
            if ref is None:
                continue
            numbers = reader.numbers(ref)
            if not numbers:
                yield Row(model, "evaluate", label, label.rsplit("/", 1)[-1], reason=reader.reason(ref))
            for name, number in numbers.items():
                row = _row(model, "evaluate", label, name, number, _seed(plan), timing=timing)
                base = dense.get(name)
                if base is not None and model != DENSE and number.direction:
                    _drop(row, number, base, _seed(plan))
                yield row


def _drop(row: Row, number: Number, base: Number, seed: int) -> None:
    sign = number.direction
    if number.each is not None and base.each is not None and len(number.each) == len(base.each):
        row.drop, row.drop_low, row.drop_high = paired_bootstrap(sign * base.each, sign * number.each, seed)
    else:
        row.drop = row.drop_low = row.drop_high = sign * (base.value - number.value)


def _agreement_rows(reader: Reader, collapsed: dict[str, str]) -> Iterator[Row]:
    plan = reader.plan
    section = plan.params.attribute
    for saliency in labels(section.saliency):
        for label in labels(section.agreement):
            ceilings = [reader.numbers(plan.agreement.get((m, saliency, label))) for m in plan.reseeded]
            controls = [RANDOM, *(f"control:{c}" for c in labels(section.controls))]
            floors = [reader.numbers(plan.agreement.get((m, saliency, label))) for m in controls]
            for model in [*plan.reseeded, *controls, *plan.variants]:
                ref = plan.agreement.get((model, saliency, label))
                if ref is None:
                    continue
                numbers = reader.numbers(ref)
                if not numbers:
                    yield _without(plan, model, "agreement", label, saliency, reader.reason(ref), ceilings, floors)
                for name, number in numbers.items():
                    row = _row(model, "agreement", label, name, number, _seed(plan), saliency=saliency)
                    _controls(
                        plan, row, number, [c.get(name) for c in ceilings], [f.get(name) for f in floors], collapsed
                    )
                    if model in plan.variants:
                        _kept(reader, row, number, model, saliency)
                    yield row


def _without(
    plan: Plan, model: str, kind: str, label: str, saliency: str, reason: str, tops: Numbers, bottoms: Numbers
) -> Row:
    """The row of an answer that has no number: the reason, and what its controls are."""
    sign = next((n.direction or 1 for c in tops for n in c.values()), 1)
    firsts = [next(iter(c.values())).value for c in tops if c]
    floors = [next(iter(f.values())).value for f in bottoms if f]
    return Row(
        model,
        kind,
        label,
        label,
        saliency=saliency,
        reason=reason,
        verdict="not auditable" if model in plan.variants else "",
        ceiling=float(np.mean(firsts)) if firsts else NAN,
        floor=max(floors, key=lambda f: sign * f) if floors else NAN,
    )


def _audit_rows(reader: Reader, collapsed: dict[str, str]) -> Iterator[Row]:
    """The floor of an audit is the best of the control maps. The random network has rows of its own: an
    audit of confidence flatters it, since it starts at chance."""
    plan = reader.plan
    section = plan.params.attribute
    for label in labels(section.audit):
        controls = [f"control:{c}" for c in labels(section.controls)]
        fixed = [reader.numbers(plan.audit.get((DENSE, c, label))) for c in controls]
        for saliency in labels(section.saliency):
            ceilings = [reader.numbers(plan.audit.get((m, saliency, label))) for m in plan.reseeded]
            for model in [DENSE, *plan.reseeded, RANDOM, *plan.variants]:
                ref = plan.audit.get((model, saliency, label))
                if ref is None:
                    continue
                numbers = reader.numbers(ref)
                if not numbers:
                    yield _without(plan, model, "audit", label, saliency, reader.reason(ref), ceilings, fixed)
                for name, number in numbers.items():
                    row = _row(model, "audit", label, name, number, _seed(plan), saliency=saliency)
                    _controls(
                        plan, row, number, [c.get(name) for c in ceilings], [f.get(name) for f in fixed], collapsed
                    )
                    dense = reader.numbers(plan.audit[DENSE, saliency, label]).get(name)
                    if dense is not None and model in plan.variants and number.direction:
                        _drop(row, number, dense, _seed(plan))
                    yield row
        for control, numbers in zip(controls, fixed, strict=True):
            for name, number in numbers.items():
                yield _row(DENSE, "audit", label, name, number, _seed(plan), saliency=control)


def _controls(
    plan: Plan,
    row: Row,
    number: Number,
    ceilings: Sequence[Number | None],
    floors: Sequence[Number | None],
    collapsed: dict[str, str],
) -> None:
    """Sets floor, ceiling, the gap to the ceiling and, for a variant, the verdict."""
    sign = number.direction or 1
    tops = [c for c in ceilings if c is not None]
    bottoms = [f for f in floors if f is not None]
    seed = _seed(plan)
    if bottoms:
        highest = max(bottoms, key=lambda f: sign * f.value)
        row.floor = highest.value
        if number.each is not None and highest.each is not None:
            row.above_floor_low = paired_bootstrap(sign * number.each, sign * highest.each, seed)[1]
        else:
            row.above_floor_low = sign * (number.value - highest.value)
    if tops:
        row.ceiling = float(np.mean([c.value for c in tops]))
        each = [c.each for c in tops if c.each is not None]
        if number.each is not None and len(each) == len(tops):
            stacked = sign * np.stack(each)
            if len(each) >= 3:
                own = np.broadcast_to(sign * number.each, stacked.shape)
                row.gap, row.gap_low, row.gap_high = paired_bootstrap_seeds(own, stacked, seed)
            else:
                row.gap, row.gap_low, row.gap_high = paired_bootstrap(sign * number.each, stacked.mean(0), seed)
        else:
            row.gap = row.gap_low = row.gap_high = sign * (number.value - row.ceiling)
    if row.model in plan.variants:
        if row.model in collapsed:
            row.verdict, row.reason = "not auditable", collapsed[row.model]
        elif math.isnan(row.gap_low):
            why = "its ceiling is not auditable" if plan.reseeded else f"its ceiling {NO_RECIPE}"
            row.verdict, row.reason = "not auditable", why
        else:
            row.verdict = verdict(row.gap_low, row.gap_high, plan.params.attribute.margin)
            if row.verdict == "faithful" and not row.above_floor_low > 0 and not math.isnan(row.floor):
                row.verdict, row.reason = "not distinguishable", "it is no better than its floor"


def _kept(reader: Reader, row: Row, number: Number, model: str, saliency: str) -> None:
    """Agreement on the inputs whose label the variant keeps, and on those that it flips."""
    path = reader.folder(reader.plan.saliency[model, saliency]) / "kept.json"
    if number.each is None or not path.exists():
        return
    kept = np.array(read_json(path)["kept"], dtype=bool)
    finite = np.isfinite(number.each)
    row.n_flipped = int((~kept).sum())
    row.kept = float(number.each[kept & finite].mean()) if (kept & finite).any() else NAN
    row.flipped = float(number.each[~kept & finite].mean()) if (~kept & finite).any() else NAN


def chain_of(plan: Plan, variant: str) -> list[dict[str, Any]]:
    """A variant's links with all parameters."""
    return [entry(link) for link in plan.params.compress[variant]]
