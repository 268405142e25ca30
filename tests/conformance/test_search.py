"""A search of another package: through the frame, asked again, and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.flows import cli
from assay.flows.study import run_study
from assay.plugins import registry

SEARCH = '''
    """Every value of one path, by the training loss that it ends with."""

    from __future__ import annotations

    import numpy as np

    from assay.plugins.contract import Ask, Card, Number, Result, Search


    class Each(Search):
        """Trains every value of the first path."""

        card = Card(title="Exhaustive search")

        def search(self, space, lab, ctx):
            (path, values), *_ = space.items()
            trained = lab.train([Ask(changes={path: value, "epochs": 3}) for value in values])
            losses = np.array([float(t.history[-1]["loss"]) for t in trained])
            best = Number(float(losses.min()), "", -1, "training loss of the best")
            return {path: values[int(losses.argmin())]}, Result({"best": best}, {"loss": losses})
'''
JUDGED = '''
    """Every value of one path, by its accuracy."""

    from __future__ import annotations

    import numpy as np

    from assay.plugins.contract import Ask, Card, Number, Result, Search


    class Judged(Search):
        """Trains every value of the first path and asks the lab how good each is."""

        card = Card(title="Exhaustive search by accuracy")

        def search(self, space, lab, ctx):
            (path, values), *_ = space.items()
            trained = lab.train([Ask(changes={path: value, "epochs": 3}) for value in values])
            found = [lab.evaluate(t.model, "accuracy/top1").numbers["top1"].value for t in trained]
            attacked = [lab.evaluate(t.model, "robustness/pgd").numbers["robust"].value for t in trained]
            best = Number(max(found), "", 1, "accuracy of the best")
            arrays = {"accuracy": np.array(found), "robust": np.array(attacked)}
            return {path: values[int(np.argmax(found))]}, Result({"best": best}, arrays)
'''
TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 80, "test": 40}],
    "train": {
        "model": {"name": "mlp", "hidden": [16]},
        "batches": {"name": "shuffled", "size": 20},
        "epochs": 1,
    },
}
RATES = [1e-6, 0.01]


@pytest.fixture
def each(install: Any) -> Any:
    """The search, installed."""
    install("fake-search", {"search": "fake_search"}, {"fake_search/__init__.py": "", "fake_search/each.py": SEARCH})
    return registry.make("search", "each")


def test_a_search_finds_the_better_value_and_keeps_its_trainings(each: Any, tmp_path: Path) -> None:
    more = {"space": {"optimizer.lr": RATES}, "project": tmp_path / "p", "prefect": False}
    found = run_study("search", each, TREE, **more)
    assert found.answer == {"optimizer.lr": 0.01}
    assert found.result.arrays["loss"][1] < found.result.arrays["loss"][0]
    assert "optimizer.lr = 0.01" in found.page.read_text(encoding="utf-8")
    assert run_study("search", each, TREE, **more).computed == 0
    assert run_study("search", each, TREE, **{**more, "space": {"optimizer.lr": [*RATES, 0.02]}}).computed == 2


def test_the_command_prints_the_run_that_takes_it(
    each: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    space = f"train.optimizer.lr={json.dumps(RATES)}"
    with pytest.raises(SystemExit) as stop:
        cli.main(["search", "each", "--space", space, "--no-server"])
    assert not stop.value.code
    assert "best: assay run --set 'train.optimizer.lr=0.01'" in capsys.readouterr().err


def test_a_lab_judges_predictions_as_the_run_makes_them(install: Any, tmp_path: Path) -> None:
    """Where another model answers alone, what was trained makes no difference."""
    files = {"fake_judged/__init__.py": "", "fake_judged/judged.py": JUDGED}
    install("fake-judged", {"search": "fake_judged"}, files)
    method = registry.make("search", "judged")
    more = {"space": {"optimizer.lr": RATES}, "project": tmp_path / "p", "prefect": False}
    alone = run_study("search", method, TREE, **more).result.arrays
    assert alone["accuracy"][0] != alone["accuracy"][1]
    other = {**TREE["train"], "optimizer": {"name": "adamw", "lr": 0.02}, "epochs": 15}
    mixed = {
        **TREE,
        "trainings": {"other": other},
        "predict": {"name": "adaptive_smoothing", "robust": "other", "alpha": 1},
    }
    found = run_study("search", method, mixed, **more).result.arrays
    for name in ("accuracy", "robust"):
        assert found[name][0] == found[name][1]
    assert found["accuracy"][0] > alone["accuracy"].max() + 0.1, (found, alone)
