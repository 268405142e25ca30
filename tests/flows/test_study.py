"""Studies and searches: one cell that asks for trainings, its page, its answer, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from assay.flows import cli
from assay.flows.study import run_study
from assay.plugins.study.randomization_test import RandomizationTest

TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 80, "test": 40}],
    "train": {"model": {"name": "mlp", "hidden": [16]}, "epochs": 1},
}


def test_a_study_asks_for_its_trainings_once(tmp_path: Path) -> None:
    method = RandomizationTest(fractions=(0.0, 1.0), seeds=2)
    first = run_study("study", method, TREE, project=tmp_path, prefect=False)
    assert first.computed == 2 + 4 + 4 + 1  # data, noisy data, trainings, the study
    assert set(first.result.numbers) == {"fitted", "tested", "chance"}
    page = first.page.read_text(encoding="utf-8")
    assert first.answer in page
    assert "<svg" in page
    rows = (first.page.parent / "study.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "fraction,training_accuracy,test_accuracy,test_accuracy_lowest,test_accuracy_highest"
    assert len(rows) == 3

    again = run_study("study", method, TREE, project=tmp_path, prefect=False)
    assert again.computed == 0
    assert again.page == first.page
    wider = run_study(
        "study", RandomizationTest(fractions=(0.0, 0.5, 1.0), seeds=2), TREE, project=tmp_path, prefect=False
    )
    assert wider.computed == 2 + 2 + 1  # what the first has trained is there
    assert wider.page != first.page


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's params file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    return tmp_path / "params.yaml"


def command(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    """A command's exit code and what it said."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_the_command(params: Path, capsys: Any) -> None:
    arguments = ("--with", "fractions=[0.0, 1.0]", "--with", "seeds=1", "--no-server", "--json")
    code, out, _ = command(capsys, "study", "randomization_test", *arguments)
    assert code == 0
    answer = json.loads(out)
    assert len(answer["table"]["fraction"]) == 2
    assert Path(answer["page"]).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("study", "randomisation_test"), ["randomisation_test", "did you mean randomization_test"]),
        (("study", "randomization_test", "--with", "seed=3"), ["study.seed", "did you mean 'seeds'"]),
        (("study", "randomization_test", "--with", "seeds"), ["--with 'seeds'", "parameter=value"]),
        (("study", "randomization_test", "--set", "train.epochs=x"), ["train.epochs", "'x'"]),
        (("search", "nothing", "--space", "optimizer.lr=[0.1]"), ["no method 'nothing'"]),
    ],
)
def test_bad_input(params: Path, capsys: Any, arguments: tuple[str, ...], words: list[str]) -> None:
    code, _, err = command(capsys, *arguments)
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
