"""A search of another package: through the frame, asked again, and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assay.flows import cli
from assay.flows.session import open_session
from assay.flows.study import check_space, run_study
from assay.plugins import registry
from assay.plugins.contract import BadInput
from assay.tasks import track

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
ASKING = '''
    """What the lab says of an untrained network, at once and as a cell."""

    from __future__ import annotations

    import numpy as np

    from assay.plugins.contract import Ask, Card, Number, Result, Search


    class Asks(Search):
        """Trains nothing."""

        card = Card(title="Questions to the lab")

        def search(self, space, lab, ctx):
            now = lab.evaluate(lab.new_model(3), "proxy/synflow").numbers["synflow"].value
            asks = [Ask(changes={"epochs": 0, "keep": [0], "model.hidden": h}, seed=3) for h in ([16], [], "wide")]
            rows = lab.measure(asks, ["proxy/synflow", "dynamics/linear_path"])
            kept = rows[0][0].numbers["synflow"].value
            numbers = {"now": Number(now, "", 0, "at once"), "kept": Number(kept, "", 0, "as a cell")}
            reasons = [row[1].reason for row in rows]
            return {}, Result(numbers, {"reason": np.array(reasons)})
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
    more = {"space": {"optimizer.lr": RATES}, "project": tmp_path / "p", "prefect": False, "track": False}
    found = run_study("search", each, TREE, **more)
    assert found.answer == {"optimizer.lr": 0.01}
    assert found.result.arrays["loss"][1] < found.result.arrays["loss"][0]
    assert "optimizer.lr = 0.01" in found.page.read_text(encoding="utf-8")
    assert run_study("search", each, TREE, **more).computed == 0
    assert run_study("search", each, TREE, **{**more, "space": {"optimizer.lr": [*RATES, 0.02]}}).computed == 2


def test_the_lab_answers_for_untrained_networks(install: Any, tmp_path: Path) -> None:
    install("fake-asks", {"search": "fake_asks"}, {"fake_asks/__init__.py": "", "fake_asks/asks.py": ASKING})
    method = registry.make("search", "asks")
    found = run_study("search", method, TREE, space={"epochs": [1]}, project=tmp_path / "p", prefect=False)
    numbers = {name: number.value for name, number in found.result.numbers.items()}
    assert numbers["now"] == pytest.approx(numbers["kept"]) != 0
    reasons = found.result.arrays["reason"].tolist()
    assert ["two kept checkpoints" in reason for reason in reasons] == [True, True, False]
    assert "model.hidden" in reasons[2]
    assert "'wide'" in reasons[2]


def command(capsys: Any, *arguments: str) -> tuple[int, str]:
    """A command's exit code and what it said."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    return int(stop.value.code or 0), capsys.readouterr().err


def test_the_command_prints_the_run_that_takes_it(
    each: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    Path("params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    space = f"train.optimizer.lr={json.dumps(RATES)}"
    code, said = command(capsys, "search", "each", "--space", space, "--no-server")
    assert code == 0
    best = "--set train.optimizer.name=adamw --set train.optimizer.lr=0.01"
    assert f"best: assay run {best}" in said
    (folder,) = track.waiting(tmp_path)
    parent, *trainings = json.loads((folder / track.MESSAGE).read_text(encoding="utf-8"))["runs"]
    tags = parent["tags"]
    assert (tags["kind"], tags["method"], tags["answer"]) == ("search", "search/each", '{"optimizer.lr": 0.01}')
    assert parent["params"]["space.optimizer.lr"] == str(RATES)
    assert [row["params"]["train.optimizer.lr"] for row in trainings] == [str(rate) for rate in RATES]
    assert trainings[1]["tags"]["changes"] == "train.epochs=3, train.optimizer.lr=0.01, seed=0"
    assert [name for name, _, step in trainings[1]["metrics"] if step == 3].count("train/loss") == 1
    code, said = command(capsys, "plan", *best.split())
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--space", "optimizer.lrr=[0.1]"), ["--space optimizer.lrr", "did you mean 'lr'"]),
        (("--space", "optimizer.lr=[0.1, -1]"), ["--space optimizer.lr", "-1", "greater than 0"]),
        (("--space", "epochs=[x]"), ["--space epochs", "'x'"]),
        (("--space", "seed=[1, 2]"), ["a training has no 'seed'"]),
        (("--space", "epochs=[1]", "--with", "metrics=[proxy/snap]"), ["search robot", "no method 'proxy/snap'"]),
    ],
)
def test_what_is_wrong_with_a_space_ends_it_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, ...], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    code, said = command(capsys, "search", "robot", *arguments, "--no-server")
    assert code == 2, said
    assert "Traceback" not in said
    assert all(word in said for word in words), said


def test_a_value_inside_another_paths_value_must_fit_one_of_those(tmp_path: Path) -> None:
    session = open_session(TREE, project=tmp_path)
    models = ["mlp", {"name": "small_cnn"}]
    check_space(session, {"model": models, "model.width": [8, 16]})
    with pytest.raises(BadInput, match=r"--space model.width: .*width"):
        check_space(session, {"model": models, "model.width": [8, 3]})


def test_a_search_trains_what_ranks_high_and_tells_what_failed(tmp_path: Path) -> None:
    method = registry.make("search", {"name": "robot", "metrics": ["proxy/snip", "proxy/synflow"], "queries": 3})
    more = {"space": {"optimizer.lr": [0.01, 1e30], "model.hidden": [[4], [8]]}, "project": tmp_path, "prefect": False}
    found = run_study("search", method, TREE, **more)
    table = found.result.arrays
    failed = [lr for lr, why in zip(table["optimizer.lr"], table["failure"], strict=True) if why]
    assert "1e+30" in failed
    assert set(failed) == {"1e+30"}
    assert any("loss is" in why for why in table["failure"])
    assert found.answer["optimizer.lr"] == 0.01
    assert np.isnan(table["validation_error"][table["failure"] != ""]).all()
    assert "loss is" in found.page.read_text(encoding="utf-8")
    assert run_study("search", method, TREE, **more).computed == 0
    # Asked again, what it asked for is there, save what has no artifact because it failed.
    assert run_study("search", method, TREE, **more, force=True).computed == 1
    random = run_study("search", registry.make("search", {"name": "random_search", "queries": 4}), TREE, **more)
    assert sorted(random.result.arrays["failure"] != "") == [False, False, True, True]
    assert random.result.numbers["validation_error"].value <= found.result.numbers["validation_error"].value
    assert random.computed <= 2  # the two learn from the same trainings


def test_a_search_depends_on_the_code_of_what_it_asks_by_name(tmp_path: Path) -> None:
    session = open_session(TREE, project=tmp_path)
    cell = session.plan.add_study("search", registry.make("search", "robot"), {"epochs": [1]})
    for name in ("evaluate.proxy.synflow", "prepare.transform.validation_split"):
        assert f"code.assay.plugins.{name}" in cell.ingredients
    turned = session.plan.add_study("search", registry.make("search", "robot"), {"model.hidden": [[4]], "epochs": [1]})
    same = session.plan.add_study("search", registry.make("search", "robot"), {"epochs": [1], "model.hidden": [[4]]})
    assert list(turned.spec["space"]) == list(same.spec["space"])
    assert turned.key == same.key


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
