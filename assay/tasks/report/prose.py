"""What the page says in sentences: what was asked, what was found, what the words mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from assay.plugins import registry
from assay.tasks.params import labels
from assay.tasks.plan import Plan
from assay.tasks.report import view, words
from assay.tasks.report.view import Glance
from assay.tasks.report.words import Words, params_text
from assay.tasks.results import chain_of
from assay.tasks.summary import Summary


def chains(plan: Plan) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    """Each variant's links: name, parameters, key of the model after it."""
    found = []
    for variant in plan.variants:
        refs = plan.chains[variant]
        links = [
            (link["id"].removeprefix("compress/"), params_text(link["params"]), ref.key)
            for link, ref in zip(chain_of(plan, variant), refs, strict=True)
        ]
        found.append((variant, plan.models[variant].key, links))
    return found


def origin(plan: Plan) -> str:
    """Where a given dense model is from, with the links that it had already."""
    start = plan.params.train.start
    links = plan.starts["train"].card.links if "train" in plan.starts else ()
    chain = " → ".join(step.id.removeprefix("compress/") for step in links)
    return f"{start} ({chain})" if chain else start


def asked(plan: Plan, summary: Summary, facts: Mapping[str, Any]) -> str:
    """What was asked, in a sentence or two."""
    main: Mapping[str, Any] = next((one for one in facts.get("data", []) if one.get("name") == "main"), {})
    sizes = main.get("sizes", {})
    steps = " → ".join(registry.method_id(step).rsplit("/", 1)[1] for step in plan.params.prepare)
    model = registry.method_id(plan.params.train.model).rsplit("/", 1)[1]
    train = f" ({sizes['train']:,} training examples)" if "train" in sizes else ""
    came = f"was taken from {origin(plan)}, for the data" if plan.params.train.start else "was trained on"
    text = f"The model {model} {came} {steps}{train}"
    if plan.variants:
        text += f" and compressed in {words.count(len(plan.variants), 'way')}"
    text += "." + f" {words.predicting(plan.params.predict)}".rstrip()
    text += f" Measured: {words.listing(labels(plan.params.evaluate))}."
    section = plan.params.attribute
    if section.saliency and plan.variants:
        images = max((row.n for row in summary.rows if row.kind == "agreement"), default=section.images)
        text += (
            f" Does each variant still look at the same evidence? Asked with {words.listing(labels(section.saliency))} "
            f"on {images:,} test examples, against {words.count(len(plan.reseeded), 'retrained model')}."
        )
    return text


def findings(summary: Summary, lines: Sequence[Glance], say_as: Words) -> list[str]:
    """What was found, a sentence each."""
    found = []
    variants = [one for one in lines if one.role == "variant"]
    passing = [one for one in variants if one.passed]
    sized = [one for one in passing if one.size is not None and math.isfinite(one.size.value)]
    if sized:
        best = min(sized, key=lambda one: one.size.value if one.size else math.inf)
        found.append(f"The smallest variant that passes is {best.model}: {_gains(best, say_as)}.")
    for one in variants:
        failed = [(gate.gate, view.judged(gate, summary, say_as)) for gate in one.gates if not gate.passed]
        if failed:
            reasons = [f"{text} ({why.bound or why.value})" for text, why in failed]
            found.append(f"{one.model} fails {words.listing(reasons)}.")
    for kind, what in (("agreement", "with the dense model's maps"), ("audit", "of audits with the ceiling")):
        counts = words.verdict_counts(r for r in summary.rows if r.kind == kind and r.model in summary.variants)
        if counts:
            each = [f"{number} {verdict}" for verdict, number in counts.items()]
            total = words.count(sum(counts.values()), "comparison")
            found.append(f"Of {total} {what}: {words.listing(each)}.")
    found += [f"{variant} is not auditable: {why}." for variant, why in summary.collapsed.items()]
    return found


def _gains(one: Glance, say_as: Words) -> str:
    parts = []
    if one.headline is not None:
        drop = say_as.change(one.headline, -one.headline.drop * (one.headline.direction or 1))
        parts.append(f"{one.headline.name} {say_as.value(one.headline)} ({drop} against dense)")
    parts += [text for text in (one.smaller, one.faster) if text]
    if one.agreement is not None and one.agreement.verdict:
        parts.append(f"{one.agreement.name} {one.agreement.verdict}")
    return ", ".join(parts)


def glossary(summary: Summary) -> list[tuple[str, str]]:
    """Every number's definition, one entry where several maps share it."""
    found: dict[str, str] = {}
    for row in summary.rows:
        name = row.name.rsplit(":", 1)[-1]
        if row.definition:
            found.setdefault(name, row.definition + (f" Unit: {row.unit}." if row.unit else ""))
    return sorted(found.items())


def processor(plan: Plan) -> str:
    """The machine that timings were measured on; '' where there are none."""
    for cell in plan.cells.values():
        if cell.exclusive:
            cpu, cores = cell.ingredients.get("machine.cpu", ""), cell.ingredients.get("machine.cores", "")
            return f"{cpu}, {cores} cores"
    return ""
