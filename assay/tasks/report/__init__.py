"""`report`: one self-contained page of a finished run, every number as CSV, and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.plugins.values import DataSpec
from assay.tasks.artifacts import read_json
from assay.tasks.plan import Plan
from assay.tasks.report import page as shell
from assay.tasks.report import prose, view, words
from assay.tasks.report.arrays import evidence
from assay.tasks.report.files import write_card, write_csv
from assay.tasks.report.maps import DIVERGING, SEQUENTIAL, gallery
from assay.tasks.report.samples import sheets
from assay.tasks.store import Store
from assay.tasks.summary import Summary

RAMPS = {
    signed: f"linear-gradient(90deg, {', '.join('#' + c for c in colours.split())})"
    for signed, colours in ((False, SEQUENTIAL), (True, DIVERGING))
}


def write_report(plan: Plan, store: Store, summary: Summary, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Writes `report.html`, `report.csv` and `model_card.md` into `folder` and returns the page's path.

    `facts` says what the numbers do not: `command`, `created` (ISO time), `versions` by package, `data`
    (name, version, sizes, shape and classes of each data set), `git` (the commit) and maybe `seconds`.
    The same arguments give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    say_as = words.Words(view.shares(plan, store))
    write_csv(folder / "report.csv", summary)
    write_card(folder / "model_card.md", plan, summary, say_as, facts)
    page = folder / "report.html"
    page.write_text(render(plan, store, summary, say_as, facts), encoding="utf-8")
    return page


def render(plan: Plan, store: Store, summary: Summary, say_as: words.Words, facts: Mapping[str, Any]) -> str:
    """The page as text."""
    lines = view.glances(plan, summary)
    title, status = words.title(summary)
    colours = view.colours(plan)
    main = plan.data["main"]
    spec = DataSpec(**read_json(store.folder(main.slot, main.key) / "dataset.json")["spec"])
    shown = {kind: view.panels(plan, summary, say_as, kind) for kind in ("agreement", "audit")}
    missing = {kind: view.without_panel(summary, kind, shown[kind]) for kind in shown}
    known = {
        "title": title,
        "status": status,
        "name": f"pipeline {summary.pipeline}",
        "lead": prose.asked(plan, summary, facts),
        "findings": prose.findings(summary, lines, say_as),
        "note": "",
        "beside": "report.csv with every number, model_card.md",
        "summary": summary,
        "facts": facts,
        "plan": plan,
        "words": say_as,
        "say": words,
        "lines": lines,
        "compared": next((one.agreement.name for one in lines if one.agreement is not None), "agreement"),
        "gates": view.gate_table(summary, say_as),
        "trade_offs": view.trade_offs(lines, say_as),
        "shown": shown,
        "missing": missing,
        "gallery": gallery(plan, store),
        "classes": spec.classes,
        "evidence": evidence(plan, store, spec.classes, colours),
        "samples": sheets(plan, store, spec),
        "colours": colours,
        "ramps": RAMPS,
        "chains": prose.chains(plan),
        "terms": words.TERMS,
        "verdicts": words.VERDICTS,
        "glossary": prose.glossary(summary),
        "processor": prose.processor(plan),
        "params": json.dumps(plan.params.model_dump(mode="json"), indent=2),
    }
    return shell.render("report", known)
