"""Planning: edits within one process, what a lab brings into keys, what an ask may hold."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import assay
from assay.flows import api
from assay.plugins.attribute.audit.deletion import Deletion
from assay.plugins.contract import Ask, Attribution, Context, Lab, Number, Result, Subject
from assay.tasks.artifacts import load_result
from assay.tasks.cells import Cell
from assay.tasks.compute import Outcome, compute_one
from tests.conftest import SMALL

EDIT = """
import json, sys
from pathlib import Path
import assay
from assay.flows.session import open_session
from assay.plugins import registry

tree, root = json.loads(sys.argv[1]), Path(sys.argv[2])
package = Path(assay.__file__).parent / "plugins"

def plan():
    cells = open_session(tree, project=root).plan.cells.values()
    return {cell.label: cell.key for cell in cells}

first, again = plan(), plan()
mlp = package / "train" / "model" / "mlp.py"
mlp.write_text(mlp.read_text() + "\\nUNUSED = 1\\n")
edited = plan()
(package / "train" / "model" / "wide.py").write_text(mlp.read_text())
known = "train/model/wide" in registry.index().entries
plan()
print(json.dumps([first, again, edited, known, "train/model/wide" in registry.index().entries]))
"""


def test_an_edit_within_one_process(tmp_path: Path) -> None:
    """As in a notebook: what is edited between two plans is seen by the second."""
    code = tmp_path / "code"
    shutil.copytree(Path(assay.__file__).parent, code / "assay", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", EDIT, json.dumps(SMALL), str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    first, again, edited, before, after = json.loads(done.stdout.splitlines()[-1])
    assert first == again
    assert first["train dense"] != edited["train dense"]
    assert first["prepare 1 transform/subset"] == edited["prepare 1 transform/subset"]
    assert (before, after) == (False, True)


def retrains(self: Deletion, subject: Subject, attribution: Attribution, ctx: Context, lab: Lab) -> Result:
    """An audit that trains one model of one epoch."""
    [trained] = lab.train([Ask(changes={"epochs": 1}, seed=5)])
    return Result({"epochs": Number(float(len(trained.history)), "", 1, "epochs of the training")})


def finish(cell: Cell, session: api.Session) -> Outcome:
    """Computes one cell, and first the trainings that it asks for."""
    outcome = compute_one(cell, session.store, session.downloads, "test")
    if outcome.status == "pending":
        for asked in outcome.pending:
            finish(Cell.from_json(asked), session)
        outcome = compute_one(cell, session.store, session.downloads, "test")
    assert outcome.status in ("done", "hit"), f"{outcome.message}\n{outcome.trace}"
    return outcome


def test_an_audit_is_given_a_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree: dict[str, Any] = copy.deepcopy(SMALL)
    tree["compress"], tree["attribute"]["controls"] = {}, []
    tree["attribute"]["audit"] = ["deletion"]
    plain = api.open_session(tree, project=tmp_path).plan
    monkeypatch.setattr(Deletion, "audit", retrains)
    session = api.open_session(tree, project=tmp_path)
    api.materialise(session)
    ref = session.plan.audit["dense", "gradient", "deletion"]
    cell = session.plan.cells[ref.key]
    assert {"code.assay.tasks.lab", "code.assay.tasks.training"} <= set(cell.ingredients)
    without = plain.cells[plain.audit["dense", "gradient", "deletion"].key]
    assert "code.assay.tasks.lab" not in without.ingredients
    for one in session.plan.cells.values():
        if one.stage in ("prepare", "train") or one.label.startswith(("attribute dense", cell.label)):
            finish(one, session)
    result = load_result(session.store.folder(ref.slot, ref.key))
    assert result.numbers["epochs"].value == 1.0


def test_how_a_process_is_seeded_is_in_every_key(tmp_path: Path) -> None:
    plan = api.open_session(copy.deepcopy(SMALL), project=tmp_path).plan
    computed = [cell for cell in plan.cells.values() if cell.slot != "prepare/source"]
    assert all("code.assay.tasks.job" in cell.ingredients for cell in computed)
    assert {cell.label.split()[0] for cell in computed if "code.assay.tasks.lab" in cell.ingredients} == {"compress"}


def test_a_full_id_is_a_name_too() -> None:
    from assay.plugins import registry

    short = registry.make("attribute/saliency", "gradient")
    assert registry.make("attribute/saliency", "attribute/saliency/gradient") == short


def test_doctor_tells_of_a_plugin_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.flows.commands.upkeep import _plugins
    from assay.plugins import registry

    loads = registry.load

    def load(id: str) -> Any:
        if id.endswith("/gradient"):
            raise registry.UnknownMethod(f"method '{id}' of assay is broken: No module named 'nonexistent_lib'")
        return loads(id)

    monkeypatch.setattr(registry, "load", load)
    rows = {what: (ok, found) for what, ok, found in _plugins()}
    ok, found = rows["attribute/saliency/gradient"]
    assert not ok
    assert "nonexistent_lib" in found
    assert [what for what, (ok, _) in rows.items() if not ok] == ["attribute/saliency/gradient"]
