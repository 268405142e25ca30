"""`params.yaml` as one frozen tree: read safely, overridden by `--set`, every method resolved and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from assay.plugins import registry
from assay.plugins.values import BadInput
from assay.tasks import askable
from assay.tasks.gates import Gate, parse_gate
from assay.tasks.reading import read_tree

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
HERE = "\0"
DENSE = "dense"
MAIN = "main"
REGISTERED = "models:/"
PRETRAINED = "pretrained"
TAKEN = (DENSE, "random", "controls", MAIN, "parent", PRETRAINED)
"""What no variant, training or further data set may be called: the frame's own names for others."""


def _method(prefix: str, value: Any) -> Any:
    if not isinstance(value, str | Mapping):
        return value
    try:
        return registry.make(prefix, value, HERE)
    except registry.UnknownMethod as error:
        raise ValueError(str(error)) from error


def _dump(method: Any) -> dict[str, Any]:
    prefix = method.slot + "/"
    short = registry.method_id(method).removeprefix(prefix if not prefix.startswith("prepare") else "prepare/")
    return {"name": short, **method.model_dump(mode="json")}


def _is_method(value: Any) -> Any:
    if not hasattr(value, "card"):
        raise ValueError("give a method's name, or a mapping with `name` and parameters")
    return value


def at(prefix: str) -> Any:
    """The type of a method of the slot `prefix` in the tree."""
    return Annotated[Any, BeforeValidator(partial(_method, prefix)), AfterValidator(_is_method), PlainSerializer(_dump)]


def maybe(prefix: str) -> Any:
    """The type of a method of the slot `prefix`, or null."""
    return at(prefix) | None


# YAML's own types: no text, no true or false, no 3.0 where a whole number is expected.
Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, Field(strict=True)]
Bool = Annotated[bool, Field(strict=True)]


def _epoch(value: Any) -> Any:
    if value in ("all", "last") or (type(value) is int and value >= 0):
        return value
    raise ValueError(f"{HERE}: {value!r} is not valid: give an epoch's number, 'last' or 'all'")


Epoch = Annotated[int | str, BeforeValidator(_epoch)]


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Train(_Tree):
    """The section `train`: one recipe, or a model that is there already (`from`).

    A given model is not trained: the recipe then says how it is trained again (the ceiling, audits that retrain),
    and `epochs` is 0, no recipe, where it is not given.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    start: str = Field(
        "",
        alias="from",
        description="the model as it is: a safetensors file, relative to the project; `pretrained`, the weights that "
        "come with `model`; models:/NAME@ALIAS or models:/NAME/VERSION of MLflow's registry; or one of `trainings`",
    )
    model: maybe("train/model") = Field(None, description="needed, unless `from` names a registered model")  # type: ignore[valid-type]
    edit: list[at("train/edit")] = []  # type: ignore[valid-type]
    batches: at("train/batches") = Field("shuffled", validate_default=True)  # type: ignore[valid-type]
    augment: list[at("train/augment")] = []  # type: ignore[valid-type]
    objective: maybe("train/objective") = Field(None, description="the problem's own where null")  # type: ignore[valid-type]
    penalty: list[at("train/penalty")] = []  # type: ignore[valid-type]
    learner: at("train/learner") = Field("backprop", validate_default=True)  # type: ignore[valid-type]
    around: list[at("train/around")] = []  # type: ignore[valid-type]
    optimizer: at("train/optimizer") = Field("adamw", validate_default=True)  # type: ignore[valid-type]
    schedule: at("train/schedule") = Field("constant", validate_default=True)  # type: ignore[valid-type]
    epochs: Int = Field(3, ge=0, le=100_000)
    keep: list[Epoch] = Field(["last"], description="epochs whose weights are kept; 0 is before the first, all is each")
    seed: Int | None = Field(None, ge=0, lt=2**31)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Bool = False
    channels_last: Bool = False
    devices: Int = Field(1, ge=1, le=64, description="GPUs (or CPU processes) that share each batch; part of the key")
    models: dict[str, str] = Field({}, description="role → name in `trainings`: teachers, guides, judges")
    data: str = Field(MAIN, description="of a further training: the data set it learns, main or a name in `datasets`")

    @model_validator(mode="before")
    @classmethod
    def _without_recipe(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("from") and "epochs" not in value:
            return {**value, "epochs": 0}
        return value

    @model_validator(mode="after")
    def _architecture(self) -> Train:
        if self.model is None and not self.registered:
            raise ValueError(f"{HERE}.model: this section or value is missing")
        if self.keep and all(isinstance(epoch, int) and epoch > self.epochs for epoch in self.keep):
            raise ValueError(f"{HERE}.keep: the training has {self.epochs} epochs, and none of {self.keep} is one")
        return self

    @property
    def registered(self) -> bool:
        """Whether it starts from a model of MLflow's registry, which brings its architecture."""
        return self.start.startswith(REGISTERED)

    @property
    def retrains(self) -> bool:
        """Whether the recipe can train the model again."""
        return not self.start or self.epochs > 0


class Attribute(_Tree):
    """The section `attribute`: maps, what compares them, what judges them, and the controls."""

    saliency: list[at("attribute/saliency")] = []  # type: ignore[valid-type]
    agreement: list[at("attribute/agreement")] = []  # type: ignore[valid-type]
    audit: list[at("attribute/audit")] = []  # type: ignore[valid-type]
    controls: list[at("attribute/saliency")] = Field(["random", "constant", "edge"], validate_default=True)  # type: ignore[valid-type]
    images: Int = Field(512, ge=2, description="a seeded part of the test split")
    reseeds: Int = Field(1, ge=1, le=20, description="dense retrainings for the ceiling")
    ceiling: Literal["retrain", "finetune"] = Field(
        "retrain", description="retrain: by the recipe from scratch; finetune: by the recipe from the dense model"
    )
    margin: Float = Field(0.05, ge=0, description="how far below the ceiling is still faithful")
    seed: Int | None = Field(None, ge=0, lt=2**31)


class StoreParams(_Tree):
    """The section `store`."""

    root: str = ".assay/store"
    remote: str = ""


class Params(_Tree):
    """The whole of `params.yaml`."""

    seed: Int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Int = Field(1, ge=1, le=256, description="CPU threads of one cell; part of every key")
    workers: Int = Field(0, ge=0, le=256, description="cells at once; 0: as many as cores hold")
    prepare: list[at("prepare")] = Field(min_length=1)  # type: ignore[valid-type]
    train: Train
    compress: dict[Annotated[str, Field(pattern=NAME)], list[at("compress")]] = {}  # type: ignore[valid-type]
    attribute: Attribute = Attribute()
    predict: maybe("predict") = Field(None, description="inference that is more than the model's pass")  # type: ignore[valid-type]
    evaluate: list[at("evaluate")] = []  # type: ignore[valid-type]
    gates: list[str] = []
    datasets: dict[Annotated[str, Field(pattern=NAME)], list[at("prepare")]] = {}  # type: ignore[valid-type]
    trainings: dict[Annotated[str, Field(pattern=NAME)], Train] = {}
    store: StoreParams = StoreParams()

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        faults = [
            *_prepare_faults("prepare", self.prepare),
            *(f for name, steps in self.datasets.items() for f in _prepare_faults(f"datasets.{name}", steps)),
            *_variant_faults(self.compress),
            *_gate_faults(self),
            *_reference_faults(self),
        ]
        faults += () if faults else askable.faults(self)
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def section_seed(self, section: str) -> int:
        """The seed of a section: its own, else the global one."""
        own = getattr(getattr(self, section, None), "seed", None)
        return self.seed if own is None else int(own)


def _prepare_faults(key: str, steps: Sequence[Any]) -> list[str]:
    faults = []
    for i, step in enumerate(steps):
        wanted = "prepare/source" if i == 0 else "prepare/transform"
        if step.slot != wanted:
            kind = wanted.split("/")[1]
            faults.append(f"{key}.{i}: {step.method_name()!r} is a {step.slot.split('/')[1]}; a {kind} belongs here")
    return faults


def _variant_faults(variants: Mapping[str, Sequence[Any]]) -> list[str]:
    faults = []
    for name, links in variants.items():
        if name in TAKEN or name.startswith("reseeded"):
            faults.append(f"compress.{name}: this name is taken; give the variant another")
        if not links:
            faults.append(f"compress.{name}: a variant needs at least one link")
        faults += chain_faults(name, links, {})
    return faults


def chain_faults(variant: str, links: Sequence[Any], dropped: Mapping[str, str]) -> list[str]:
    """The links of a variant that need what one before them dropped; `dropped` is what the model lacks already, each
    word with who dropped it."""
    faults, gone = [], dict(dropped)
    for i, link in enumerate(links):
        short = registry.method_id(link).removeprefix("compress/")
        lacking = [need for need in link.card.needs if need in gone]
        faults += [f"compress.{variant}.{i}: {short} needs {need}; {gone[need]} dropped it" for need in lacking]
        gone.update(dict.fromkeys(link.card.drops, f"{short} at link {i}"))
    return faults


def _gate_faults(params: Params) -> list[str]:
    faults = []
    saliencies, agreements = labels(params.attribute.saliency), labels(params.attribute.agreement)
    audits, evaluators = labels(params.attribute.audit), labels(params.evaluate)
    for i, text in enumerate(params.gates):
        try:
            gate = parse_gate(text)
        except ValueError as error:
            faults.append(f"gates.{i}: {error}")
            continue
        known = [*agreements, *audits] if gate.saliency else evaluators
        faults += _field_faults(f"gates.{i}", gate, params)
        if gate.saliency and gate.saliency not in saliencies:
            faults.append(f"gates.{i}: no saliency '{gate.saliency}' in attribute.saliency {saliencies}")
        if gate.method not in known:
            where = "attribute.agreement or attribute.audit" if gate.saliency else "evaluate"
            faults.append(f"gates.{i}: no method '{gate.method}' in {where} {known}")
        if gate.base and not gate.saliency:
            faults.append(f"gates.{i}: {gate.base} is a control of attributions: name a saliency, as `gradient:rank`")
        if gate.base and gate.drop:
            faults.append(f"gates.{i}: a drop is against the dense model; it has no {gate.base}")
    return faults


def _field_faults(key: str, gate: Gate, params: Params) -> list[str]:
    """A gate whose field none of its method's numbers has, where the method says which it has."""
    section = params.attribute
    methods = [*section.agreement, *section.audit] if gate.saliency else params.evaluate
    named = (section.agreement, section.audit) if gate.saliency else (params.evaluate,)
    found = dict(zip([label for part in named for label in labels(part)], methods, strict=True)).get(gate.method)
    numbers = (gate.method,) if found in section.agreement else () if found is None else found.numbers()
    if not gate.field or not numbers or gate.field in numbers:
        return []
    return [f"{key}: {gate.method} has no number '{gate.field}'{_or_known(gate.field, numbers)}"]


def _or_known(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(known)}"


def _reference_faults(params: Params) -> list[str]:
    faults = []
    trained = sorted({*params.trainings, DENSE})
    for key, method in _everywhere(params):
        for field, name in named_by(method, "datasets").items():
            if name not in params.datasets:
                faults.append(f"{key}.{field}: no data set '{name}' in `datasets` {sorted(params.datasets)}")
        for field, name in named_by(method, "trainings").items():
            if name not in trained:
                faults.append(f"{key}.{field}: no training '{name}' in `trainings` {trained}")
    faults += [f"trainings.{name}: this name is taken; give it another" for name in params.trainings if name in TAKEN]
    faults += [f"datasets.{name}: this name is taken; give it another" for name in params.datasets if name in TAKEN]
    for key, train in [("train", params.train), *((f"trainings.{n}", t) for n, t in params.trainings.items())]:
        for role, name in train.models.items():
            if name not in params.trainings:
                faults.append(f"{key}.models.{role}: no training '{name}' in `trainings` {sorted(params.trainings)}")
        if key == "train" and train.data != MAIN:
            faults.append(f"train.data: the main training learns the data set of `prepare`, not '{train.data}'")
        elif train.data != MAIN and train.data not in params.datasets:
            faults.append(f"{key}.data: no data set '{train.data}' in `datasets` {sorted(params.datasets)}")
        if train.start in params.trainings and key != "train":
            faults.append(f"{key}.from: a further training cannot start from another; name a file")
        if key != "train" and train.models:
            faults.append(f"{key}.models: a further training cannot use models of others")
    return faults


def _everywhere(params: Params) -> list[tuple[str, Any]]:
    """The methods that may name data sets and trainings, with their keys."""
    section = params.attribute
    lists = {
        **{f"compress.{name}": links for name, links in params.compress.items()},
        **{f"attribute.{slot}": getattr(section, slot) for slot in ("saliency", "agreement", "audit")},
        "evaluate": params.evaluate,
    }
    found = [(f"{key}.{i}", method) for key, methods in lists.items() for i, method in enumerate(methods)]
    return found if params.predict is None else [*found, ("predict", params.predict)]


def named_by(method: Any, what: str) -> dict[str, str]:
    """The fields of a method that name one of `datasets` or `trainings` (and `dense`), and the names; a
    field that is empty names none."""
    return {
        name: getattr(method, name)
        for name, info in type(method).model_fields.items()
        if isinstance(info.json_schema_extra, dict)
        and info.json_schema_extra.get("names") == what
        and getattr(method, name)
    }


def labels(methods: Sequence[Any]) -> list[str]:
    """What each method of a list is called: its name; `name-2`, … where it stands there again."""
    counts: dict[str, int] = {}
    found = []
    for method in methods:
        id = registry.method_id(method)
        name = id.removeprefix("evaluate/") if id.startswith("evaluate/") else id.rsplit("/", 1)[1]
        counts[name] = counts.get(name, 0) + 1
        found.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return found


# checking


def validate(tree: Mapping[str, Any], name: str = "params") -> Params:
    """The params of a raw tree. Raises BadInput, one line a fault, each naming key, value and remedy."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        lines = [line for fault in error.errors() for line in _lines(fault)]
        raise BadInput("\n".join(f"{name}: {line}" for line in dict.fromkeys(lines))) from error


def _lines(fault: Any) -> list[str]:
    key = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "value_error":
        text = str(fault["ctx"]["error"])
        return [
            line.replace(HERE, key) if HERE in line else (f"{key}: {line}" if key else line)
            for line in text.splitlines()
        ]
    if fault["type"] == "extra_forbidden":
        return [f"{key}: unknown key{_close(fault['loc'])}"]
    if fault["type"] == "missing":
        return [f"{key}: this section or value is missing"]
    quote = "; put it in quotes" if fault["type"] == "string_type" else ""
    return [f"{key}: {fault['input']!r} is not valid: {fault['msg']}{quote}"]


def _close(loc: Sequence[Any]) -> str:
    owner: Any = Params
    for part in loc[:-1]:
        owner = {"train": Train, "attribute": Attribute, "store": StoreParams}.get(str(part), Train)
    known = [info.alias or name for name, info in owner.model_fields.items()]
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def read(path: str | Path, overrides: Sequence[str] = ()) -> Params:
    """The params of a file. Raises BadInput."""
    return validate(read_tree(Path(path), overrides), str(path))
