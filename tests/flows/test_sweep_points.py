"""The points of a sweep: what the options say, and every fault as one message before anything runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from assay.flows import cli
from assay.flows.sweep import plan_sweep
from assay.plugins.values import BadInput
from assay.tasks.reading import apply_override
from assay.tasks.sweep import MAX_POINTS, Point, make_points, parse_axis, product, tree_of
from assay.tasks.sweep_table import short_names
from tests.conftest import SMALL

AXES = [
    ("a.b=1,2", [1, 2]),
    ("a.b=1e-3,3e-3", [0.001, 0.003]),
    ("a.b=0..4", [0, 1, 2, 3, 4]),
    ("a.b=-2..0, 7,9..9", [-2, -1, 0, 7, 9]),
    ("a.b='0..4'", ["0..4"]),
    ("a.b=true,null,adamw", [True, None, "adamw"]),
    ("a.b=[32],[64,64]", [[32], [64, 64]]),
    ("a.b={name: sgd, lr: 1e-1},lion", [{"name": "sgd", "lr": 0.1}, "lion"]),
    ("a.b=x=y", ["x=y"]),
]


@pytest.mark.parametrize(("text", "values"), AXES, ids=[text for text, _ in AXES])
def test_an_axis(text: str, values: list[Any]) -> None:
    assert parse_axis("--grid", text) == ("a.b", values)


def test_the_last_axis_of_a_grid_changes_fastest() -> None:
    found = product([("a", [1, 2]), ("b", [3, 4])], [], [])
    assert found == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


def test_zipped_axes_move_together_and_multiply_with_the_rest() -> None:
    zipped = [("c", [5, 6]), ("d", [7, 8])]
    assert product([], zipped, []) == [{"c": 5, "d": 7}, {"c": 6, "d": 8}]
    found = product([("a", [1, 2])], zipped, [{"e": 9}, {"f": 0}])
    assert len(found) == 8
    assert found[0] == {"e": 9, "c": 5, "d": 7, "a": 1}
    assert found[-1] == {"f": 0, "c": 6, "d": 8, "a": 2}


def test_the_tree_of_a_point() -> None:
    """What is set inside a value that is set too comes after it; neither the base nor the point changes."""
    base = copy.deepcopy(SMALL)
    method = {"name": "sgd", "lr": 0.5}
    point = Point(1, {"train.optimizer.lr": 0.1, "train.optimizer": method, "compress.pruned.0.sparsity": 0.2})
    tree = tree_of(base, point)
    assert tree["train"]["optimizer"] == {"name": "sgd", "lr": 0.1}
    assert tree["compress"]["pruned"][0]["sparsity"] == 0.2
    assert base == SMALL
    assert method == {"name": "sgd", "lr": 0.5}
    named = tree_of(base, Point(1, {"attribute.saliency.0.absolute": True}))
    assert named["attribute"]["saliency"] == [{"name": "gradient", "absolute": True}]


def test_a_point_is_what_set_would_make_of_it() -> None:
    values = {
        "train.optimizer.lr": 1e-05,
        "train.optimizer": {"name": "sgd", "momentum": 0.9},
        "train.model.hidden": [8, 16],
        "train.schedule": "cosine",
        "seed": 3,
        "gates": ["accuracy/top1.drop <= 0.02", "gradient:rank >= ceiling - 0.1"],
        "prepare.0": {"name": "source/digits", "rev": "123"},
    }
    point = Point(1, values)
    tree = copy.deepcopy(SMALL)
    for override in point.overrides():
        apply_override(tree, override)
    assert tree == tree_of(SMALL, point)


def test_names() -> None:
    assert Point(2, {"train.optimizer.lr": 0.001, "seed": 1}).name == "train.optimizer.lr=0.001, seed=1"
    assert Point(1, {"a": 1, "b": 2}).id == Point(9, {"b": 2, "a": 1}).id != Point(1, {"a": 1, "b": 2.0}).id
    paths = ["train.optimizer.lr", "trainings.teacher.optimizer.lr", "compress.slim.0.ratio", "seed", "prepare.0"]
    assert list(short_names(paths).values()) == [
        "train.optimizer.lr",
        "teacher.optimizer.lr",
        "ratio",
        "seed",
        "prepare.0",
    ]


def lists(folder: Path, text: str) -> str:
    (folder / "points.yaml").write_text(text, encoding="utf-8")
    return "points.yaml"


GRID, ZIP = "--grid", "--zip"
BAD: list[tuple[str, list[str], list[str]]] = [
    ("nothing", [], ["no points", "--grid"]),
    ("no values", [GRID, "train.epochs="], ["--grid train.epochs", "no values"]),
    ("no sign", [GRID, "train.epochs"], ["'train.epochs'", "a.b=value"]),
    ("no path", [GRID, "=1"], ["a.b=value"]),
    ("a hole in the path", [GRID, "train..epochs=1"], ["train..epochs", "a.b=value"]),
    ("no YAML", [GRID, "train.epochs=[1"], ["--grid train.epochs", "line 1"]),
    ("an axis twice", [GRID, "seed=0,1", ZIP, "seed=2,3"], ["seed is swept twice"]),
    ("a value twice", [GRID, "train.optimizer.lr=1e-3,0.001"], ["train.optimizer.lr: 0.001 stands there twice"]),
    ("downwards", [GRID, "seed=4..0"], ["4..0 holds no number", "0..4"]),
    ("too long a range", [GRID, "seed=0..99999999999"], ["more than 5,000 values"]),
    ("too many points", [GRID, "seed=0..4999", GRID, "train.epochs=1..4999"], ["24,995,000 points", "at most 5,000"]),
    ("zip of two lengths", [ZIP, "seed=0..2", ZIP, "train.epochs=1,2"], ["seed has 3, train.epochs has 2"]),
    ("given by --set", [GRID, "seed=0,1", "--set", "seed=2"], ["seed is swept and given by --set"]),
    ("the machine's", [GRID, "threads=1,2"], ["threads cannot be swept"]),
    ("the store", [GRID, "store.root=a,b"], ["store.root cannot be swept"]),
    ("unknown section", [GRID, "trian.epochs=1,2"], ["every point", "trian: unknown key"]),
    ("unknown parameter", [GRID, "train.optimizer.lrr=1,2"], ["every point", "train.optimizer.lrr", "'lr'"]),
    (
        "out of bounds in one point",
        [GRID, "compress.pruned.0.sparsity=0.5,1.5", GRID, "seed=7"],
        ["point 2 (compress.pruned.0.sparsity=1.5, seed=7): ", "compress.pruned.0.sparsity: 1.5 is not valid"],
    ),
    (
        "out of bounds in some points",
        [GRID, "train.epochs=-1,2", GRID, "seed=0..3"],
        ["point 1 (train.epochs=-1, seed=0) and 3 more: ", "train.epochs: -1 is not valid"],
    ),
    ("no such place", [GRID, "prepare.7.train=1,2"], ["every point: prepare.7.train: '7' is no position"]),
    ("below a plain value", [GRID, "seed.x=1"], ["seed.x: 'x' lies below a plain value"]),
    ("an unknown number", [GRID, "seed=0", "--metric", "accuracy/top5"], ["accuracy/top5", "accuracy/top1"]),
    ("an unknown map", [GRID, "seed=0", "--metric", "edge:rank"], ["edge:rank: no point has it", "gradient:rank"]),
    ("no number", [GRID, "seed=0", "--metric", "is it good"], ["'is it good'", "accuracy/top1.drop"]),
    ("an unknown variant", [GRID, "seed=0", "--variant", "slim"], ["--variant slim", "dense, pruned"]),
    ("no list", ["--list", "nowhere.yaml"], ["nowhere.yaml", "not readable"]),
]


def refused(project: Any, capsys: Any, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", *arguments])
    out, said = capsys.readouterr()
    assert (stop.value.code, out) == (2, ""), said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert not (project.folder / "data").exists()
    assert not (project.folder / "reports").exists()
    return str(said)


@pytest.mark.parametrize(("arguments", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input(project: Any, capsys: Any, arguments: list[str], words: list[str]) -> None:
    said = refused(project, capsys, *arguments)
    assert len(said.splitlines()) == 1
    for word in words:
        assert word in said


LISTS = {
    "a mapping": ("seed: 1\n", ["list of mappings", "dict"]),
    "empty": ("[]\n", ["no points"]),
    "an item that is none": ("- seed: 1\n- 5\n", ["item 2 is 5"]),
    "an empty item": ("- {}\n", ["item 1 is {}"]),
    "the same twice": ("- {seed: 1, train.epochs: 2}\n- {train.epochs: 2, seed: 1}\n", ["points 1 and 2 are the same"]),
    "no path": ("- {a..b: 1}\n", ["'a..b' is no path"]),
    "tags": ("- !!python/object/apply:os.system ['true']\n", ["tag", "line 1"]),
    "text that is no YAML": ("- [1\n", ["line"]),
}


@pytest.mark.parametrize(("text", "words"), LISTS.values(), ids=LISTS.keys())
def test_a_bad_list(project: Any, capsys: Any, text: str, words: list[str]) -> None:
    said = refused(project, capsys, "--list", lists(project.folder, text))
    for word in words:
        assert word in said


def test_many_faults_are_cut_off(project: Any, capsys: Any) -> None:
    said = refused(project, capsys, GRID, f"train.epochs={','.join(str(-i) for i in range(1, 40))}")
    assert len(said.splitlines()) == 21
    assert said.splitlines()[-1] == "error: and 19 faults more"


def test_two_ways_to_make_one_data_set(project: Any) -> None:
    """The second would find what the first made."""
    project.tree["prepare"][0] = {"name": "source/image_folder", "path": "photos", "dataset": "faces"}
    project.write()
    points = [{"prepare.0.size": 8}, {"prepare.0.size": 16}]
    with pytest.raises(BadInput, match=r"point 2 \(prepare.0.size=16\): data/faces .* point 1 .*dataset"):
        plan_sweep(points, project.params)
    named = [{**point, "prepare.0.dataset": f"faces-{i}"} for i, point in enumerate(points)]
    assert len(plan_sweep(named, project.params).parts) == 2


def test_as_many_points_as_there_may_be() -> None:
    assert len(make_points(product([("seed", list(range(MAX_POINTS)))], [], []))) == MAX_POINTS


def test_a_dry_run(project: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", GRID, "compress.pruned.0.sparsity=0.3,0.6", "--dry-run"])
    out, _ = capsys.readouterr()
    assert stop.value.code == 0
    assert "point 2: compress.pruned.0.sparsity=0.6" in out
    assert "2 points" in out
    assert not (project.folder / "data").exists()


def test_a_dry_run_does_not_ask_the_remote(project: Any, capsys: Any) -> None:
    url = f"file://{project.folder / 'remote'}"
    with pytest.raises(SystemExit) as ended:
        cli.main(["sweep", GRID, "seed=0,1", "--set", f"store.remote={url}", "--dry-run"])
    assert ended.value.code == 0
    assert f"{url} was not asked" in capsys.readouterr().out
    assert not (project.folder / "remote").exists()
