"""Every fault of the params ends in one message and exit code 2, before any data is read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from assay.flows import cli

CONVEX: dict[str, Any] = {
    "prepare": ["source/friedman1"],
    "train": {"model": "mlp", "learner": "convex_relu_admm"},
    "evaluate": [],
}
"""A recipe of a learner that trains from its own start, on all examples at once."""
CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("unknown key", {"trian": {}}, ["trian", "unknown key", "train"]),
    ("unknown key in a section", {"train.epoch": 3}, ["train.epoch", "did you mean 'epochs'"]),
    ("wrong type", {"train.epochs": "many"}, ["train.epochs", "'many'", "integer"]),
    ("unknown method", {"train.optimizer": "adamv"}, ["train.optimizer", "adamv", "adamw"]),
    ("unknown link", {"compress.pruned.0": "prune/magnitud"}, ["compress.pruned.0", "prune/magnitude"]),
    ("unknown parameter", {"train.optimizer": {"name": "adamw", "lrr": 1}}, ["train.optimizer.lrr", "'lr'"]),
    ("value out of bounds", {"compress.pruned.0.sparsity": 1.5}, ["compress.pruned.0.sparsity", "1.5", "less than"]),
    ("not a method", {"train.optimizer": 7}, ["train.optimizer", "method's name"]),
    (
        "impossible chain",
        {"compress.bad": ["quantize/int8_static", "prune/magnitude"]},
        ["compress.bad.1", "prune/magnitude needs float", "quantize/int8_static at link 0 dropped it"],
    ),
    ("empty variant", {"compress.none": []}, ["compress.none", "at least one link"]),
    ("taken name", {"compress.dense": ["prune/magnitude"]}, ["compress.dense", "taken"]),
    ("taken name of a control", {"compress.reseeded-1": ["prune/magnitude"]}, ["compress.reseeded-1", "taken"]),
    ("taken name of a data set", {"datasets.main": ["source/digits"]}, ["datasets.main", "taken"]),
    ("taken name of a training", {"trainings.dense": {"model": "mlp"}}, ["trainings.dense", "taken"]),
    (
        "gate that does not parse",
        {"gates": ["accuracy/top1 is good"]},
        ["gates.0", "is not a gate", "accuracy/top1.drop"],
    ),
    ("gate without its sign", {"gates": ["gradient:rank >= ceiling 0.1"]}, ["gates.0", "sign is missing"]),
    ("gate on what is not there", {"gates": ["accuracy/top5 > 0.5"]}, ["gates.0", "accuracy/top5", "accuracy/top1"]),
    ("gate on an unknown saliency", {"gates": ["edge:rank > 0.5"]}, ["gates.0", "edge", "gradient"]),
    ("name with a path", {"compress": {"../evil": ["prune/magnitude"]}}, ["../evil", "pattern"]),
    (
        "data set name with a path",
        {"prepare.0": {"name": "source/digits", "dataset": "../x"}},
        ["prepare.0.dataset", "pattern"],
    ),
    ("method name with a path", {"train.model": "../../mlp"}, ["train.model", "no method"]),
    ("first step no source", {"prepare": ["transform/blockmnist"]}, ["prepare.0", "source belongs here"]),
    ("source in the middle", {"prepare.1": "source/digits"}, ["prepare.1", "transform belongs here"]),
    ("missing section", {"train": None}, ["train"]),
    ("unknown training", {"train.models": {"teacher": "big"}}, ["train.models.teacher", "big"]),
    (
        "an objective without its teacher",
        {"train.objective": "distillation"},
        ["train.objective", "distillation needs a teacher", "`models: {teacher: NAME}`", "`trainings`"],
    ),
    (
        "an unknown teacher of a link",
        {"compress.pruned.1": {"name": "recover/distill", "teacher": "big"}},
        ["compress.pruned.1.teacher", "'big'", "dense"],
    ),
    (
        "a link's objective under a learner that has none",
        {"train.learner": "forward_forward", "compress.pruned.1": "recover/distill"},
        ["compress pruned 1 recover/distill", "forward_forward has no place for distillation"],
    ),
    (
        "a link that reads tokens under a learner that cannot",
        {
            "train.learner": "direct_feedback_alignment",
            "compress.pruned.1": {"name": "recover/hybrid_distill", "mim_teacher": "dense"},
        },
        ["compress pruned 1 recover/hybrid_distill", "hybrid_distillation reads the activations of layers"],
    ),
    (
        "a link without its second teacher",
        {"compress.pruned.1": "recover/hybrid_distill"},
        ["compress.pruned.1", "mim_teacher"],
    ),
    ("text as a number", {"train.epochs": "3"}, ["train.epochs", "'3'", "integer"]),
    ("a fraction as a whole number", {"train.epochs": 3.0}, ["train.epochs", "3.0", "integer"]),
    ("true as a number", {"train.epochs": True}, ["train.epochs", "True", "integer"]),
    ("true as a seed", {"seed": True}, ["seed", "True", "integer"]),
    ("a number as true", {"train.compile": 1}, ["train.compile", "1", "boolean"]),
    ("a float of images", {"attribute.images": 1e3}, ["attribute.images", "1000.0", "integer"]),
    ("a negative epoch", {"train.keep": [-5]}, ["train.keep.0", "-5", "an epoch's number"]),
    ("no epoch of this training", {"train.epochs": 2, "train.keep": [3, 50]}, ["train.keep", "2 epochs", "[3, 50]"]),
    ("no epoch", {"train.keep": ["lst"]}, ["train.keep.0", "'lst'", "'last' or 'all'"]),
    ("a margin without end", {"attribute": {"margin": float("inf")}}, ["attribute.margin", "inf", "finite"]),
    ("true as a learning rate", {"train.optimizer.lr": True}, ["train.optimizer.lr", "True", "a number"]),
    ("text as a learning rate", {"train.optimizer.lr": "0.1"}, ["train.optimizer.lr", "'0.1'", "a number"]),
    ("true in a list of numbers", {"train.model.hidden": [True]}, ["train.model.hidden", "True", "a number"]),
    (
        "an objective for a learner with its own",
        {"train.learner": "forward_forward", "train.objective": "stablemax"},
        ["train.objective", "forward_forward has no place for stablemax", "leave `objective` out"],
    ),
    (
        "an optimizer that differentiates what cannot be",
        {"train.learner": "direct_feedback_alignment", "train.optimizer": "adahessian"},
        ["train.optimizer", "adahessian differentiates its gradients once more", "direct_feedback_alignment"],
    ),
    (
        "gradients of examples from a learner that has none",
        {"train.learner": "grownet", "train.around": ["upgrad"]},
        ["train.around", "upgrad needs each example's gradient", "grownet cannot give that"],
    ),
    (
        "a penalty on layers that a learner cuts apart",
        {"train.learner": "direct_feedback_alignment", "train.penalty": ["deep_supervision"]},
        ["train.penalty", "deep_supervision reads the activations of layers", "direct_feedback_alignment cannot"],
    ),
    (
        "a problem's own objective that a learner cannot honour",
        {"prepare": ["source/boxes"], "train.learner": "direct_feedback_alignment", "evaluate": []},
        ["train.objective", "grid_detection reads the activations of layers"],
    ),
    (
        "an around that a learner does not ask",
        {**CONVEX, "train.around": ["ema"], "compress": {}},
        ["train.around", "convex_relu_admm has no place for ema", "leave `around` out"],
    ),
    (
        "an optimizer that a learner does not ask",
        {**CONVEX, "train.optimizer": {"name": "adamw", "lr": 0.01}, "compress": {}},
        ["train.optimizer", "convex_relu_admm has no place for adamw"],
    ),
    (
        "a schedule that a learner does not ask",
        {**CONVEX, "train.schedule": "cosine", "compress": {}},
        ["train.schedule", "convex_relu_admm has no place for cosine"],
    ),
    (
        "finetuning by a learner that starts anew",
        CONVEX,
        ["compress.pruned.1", "recover/finetune trains the model on", "convex_relu_admm", "leave the link out"],
    ),
    (
        "a finetuned ceiling by a learner that starts anew",
        {**CONVEX, "compress": {}, "attribute": {"ceiling": "finetune"}},
        ["attribute.ceiling", "convex_relu_admm", "take retrain"],
    ),
    (
        "a learner without its validation split",
        {"train.learner": "implicit_diff"},
        ["train.learner", "implicit_diff needs a split `validation`", "add transform/validation_split"],
    ),
    ("cuda where there is none", {"device": "tpu"}, ["device", "tpu"]),
]


def change(tree: dict[str, Any], path: str, value: Any) -> None:
    """Sets a dotted path."""
    here: Any = tree
    *parents, last = path.split(".") if not path.startswith("..") else [path]
    for part in parents:
        here = here[int(part)] if isinstance(here, list) else here[part]
    if isinstance(here, list):
        here[int(last)] = value
    elif value is None:
        del here[last]
    else:
        here[last] = value


def refused(project: Any, capsys: Any, *arguments: str) -> str:
    """The message of a command that must end with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*(arguments or ("plan",))])
    said = capsys.readouterr().err
    assert stop.value.code == 2, said
    assert "Traceback" not in said
    assert said.startswith("error: ")
    assert not (project.folder / "data").exists()
    return said


@pytest.mark.parametrize(("changes", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_params(project: Any, capsys: Any, changes: dict[str, Any], words: list[str]) -> None:
    for path, value in changes.items():
        change(project.tree, path, value)
    project.write()
    said = refused(project, capsys)
    for word in words:
        assert word in said


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(9))}]\n" for i in range(8)
)
TEXTS = {
    "empty file": ("", ["is empty", "assay init"]),
    "only a comment": ("# nothing\n", ["is empty"]),
    "a list": ("- 1\n- 2\n", ["mapping of sections"]),
    "tag": ("seed: !!python/object/apply:os.system ['true']\n", ["tag", "line 1"]),
    "bomb": (BOMB, ["aliases", "line 2"]),
    "duplicate key": ("seed: 0\nseed: 1\n", ["'seed' stands here twice", "line 2"]),
    "no YAML": ("seed: [1, 2\n", ["line"]),
    "binary": ("\x00\x01", ["YAML"]),
}


@pytest.mark.parametrize(("text", "words"), TEXTS.values(), ids=TEXTS.keys())
def test_yaml(project: Any, capsys: Any, text: str, words: list[str]) -> None:
    project.write(text)
    said = refused(project, capsys)
    for word in words:
        assert word in said


def test_missing_file(project: Any, capsys: Any) -> None:
    said = refused(project, capsys, "plan", "--params", "nowhere.yaml")
    assert "nowhere.yaml" in said
    assert "no such file" in said


def test_huge_file(project: Any, capsys: Any) -> None:
    project.write("# " + "x" * 2_000_000)
    assert "no params file" in refused(project, capsys)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("train.epochs", "a.b=value"),
        ("train.epochs=x", "train.epochs"),
        ("prepare.9.train=1", "no position"),
        ("seed.deep=1", "plain value"),
        ("train.optimizer.lr=[", "--set"),
        ("prepare.²=1", "no position"),
        ("compress.pruned.0.sparsity=2", "sparsity"),
    ],
)
def test_set(project: Any, capsys: Any, override: str, word: str) -> None:
    assert word in refused(project, capsys, "plan", "--set", override)


def test_a_check_of_what_is_not_there(project: Any, capsys: Any) -> None:
    assert "no method and no distribution" in refused(project, capsys, "methods", "check", "nosuch")


def test_a_new_method_of_no_slot(project: Any, capsys: Any) -> None:
    assert "there is no slot '../x'" in refused(project, capsys, "methods", "new", "../x", "foo")


def test_all_faults_at_once(project: Any, capsys: Any) -> None:
    project.tree["train"]["epochs"] = -1
    project.tree["evaluate"] = ["accuracy/top9"]
    project.write()
    said = refused(project, capsys)
    assert "train.epochs" in said
    assert "evaluate.0" in said


def test_unknown_stage(project: Any, capsys: Any) -> None:
    assert "prepare, train" in refused(project, capsys, "run", "--only", "trian")


def test_scientific_numbers_are_numbers(project: Any) -> None:
    from assay.tasks.params import read

    text = yaml.safe_dump(project.tree).replace("lr: 0.01", "lr: 1e-2")
    project.write(text)
    assert read(project.params).train.optimizer.lr == 0.01
