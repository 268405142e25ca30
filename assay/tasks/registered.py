"""Models of MLflow's registry that a run starts from (`train.from: models:/NAME@ALIAS`): which one a reference means
when planning, and the folder it is brought to. It imports MLflow, and only where there is such a reference."""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.plugins.values import AssayError, BadInput
from assay.tasks import askable, mlflow_at
from assay.tasks.artifacts import ModelCard, Step, load_card
from assay.tasks.cells import entry
from assay.tasks.params import Params, Train, chain_faults

ARTIFACT = "artifacts/artifact"
"""Where in a model that Assay logged its artifact folder is."""
KEPT = ".assay/cache/registered"


@dataclass(frozen=True)
class Start:
    """A registered model, brought here: the reference with its version, its artifact folder and card."""

    reference: str
    folder: Path
    card: ModelCard


def resolved(params: Params, project: Path) -> tuple[Params, dict[str, Start]]:
    """The params with each reference to a registered model made one to its version, and the architecture and edits
    of that model in its recipe; and the models, by the section that names them.

    Raises BadInput where there is no such model, or the run cannot start from it; AssayError where MLflow does not
    answer.
    """
    starts: dict[str, Start] = {}
    sections = [("train", params.train), *((f"trainings.{n}", t) for n, t in params.trainings.items())]
    trained: dict[str, Train] = {}
    for key, train in sections:
        if train.registered:
            starts[key] = find(project, f"{key}.from", train.start, list(params.compress))
            trained[key] = _with_recipe(key, train, starts[key])
    if not starts:
        return params, starts
    trainings = {name: trained.get(f"trainings.{name}", train) for name, train in params.trainings.items()}
    params = params.model_copy(update={"train": trained.get("train", params.train), "trainings": trainings})
    faults = [*askable.faults(params), *(_faults(params, starts["train"]) if "train" in starts else ())]
    for key, start in starts.items():
        problem = askable.learned(params, params.train if key == "train" else params.trainings[key.partition(".")[2]])
        if start.card.spec.problem != problem:
            faults.append(f"{key}.from: {start.reference} is for {start.card.spec.problem}; the data's is {problem}")
    if faults:
        raise BadInput("\n".join(dict.fromkeys(faults)))
    return params, starts


def _with_recipe(key: str, train: Train, start: Start) -> Train:
    """The recipe whose first steps are those that the registered model has been through."""

    def made(steps: Sequence[Step]) -> list[Any]:
        try:
            return [step.method() for step in steps]
        except ValueError as error:
            raise BadInput(
                f"{key}.from: {start.reference} cannot be built by what is installed here: {error}"
            ) from error

    (model,) = made([start.card.model])
    edits = made([step for step in start.card.edits if step.id.startswith("train/edit/")])
    learner = made([step for step in start.card.edits if step.id.startswith("train/learner/")])
    own = {"model": model, "edit": edits, **({"learner": learner[0]} if learner else {})}
    for slot, method in own.items():
        said = getattr(train, slot)
        if slot in train.model_fields_set and said and _entries(said) != _entries(method):
            raise BadInput(f"{key}.{slot}: {start.reference} brings its own: leave `{slot}` out")
    return train.model_copy(update={**own, "start": start.reference})


def _entries(methods: Any) -> list[dict[str, Any]]:
    return [entry(method) for method in (methods if isinstance(methods, list) else [methods])]


def _faults(params: Params, start: Start) -> Iterator[str]:
    """What this run asks of the registered model that its links do not leave."""
    links = [step.method() for step in start.card.links]
    chain = " → ".join(step.id.removeprefix("compress/") for step in start.card.links)
    dropped = {
        word: f"{step.id.removeprefix('compress/')} of {start.reference}"
        for step, link in zip(start.card.links, links, strict=True)
        for word in link.card.drops
    }
    for variant, more in params.compress.items():
        yield from chain_faults(variant, more, dropped)
    if not (params.train.retrains and links):
        return
    if "float" in dropped:
        yield f"train.epochs: {start.reference} has no float weights ({chain}) and cannot be trained: leave it out"
    elif params.compress and params.attribute.saliency and params.attribute.ceiling == "retrain":
        yield (
            f"attribute.ceiling: {start.reference} is compressed ({chain}); trained from scratch there would be no "
            f"such model: say `ceiling: finetune`, or leave train.epochs out for no ceiling"
        )


# MLflow


def find(project: Path, key: str, reference: str, variants: Sequence[str]) -> Start:
    """The registered model that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means, brought to this project.

    `variants` are those that the run makes: it may not start from an alias that it gives to its own answer.
    Raises BadInput with close matches where there is no such model, AssayError where MLflow does not answer.
    """
    name, version, alias = _parts(key, reference)
    own = {mlflow_at.registered_name(project, variant): variant for variant in variants}
    if alias and name in own:
        raise BadInput(
            f"{key}: {reference} is what this run registers itself, as variant '{own[name]}': the next run would "
            f"start from the answer of this one. Name a version (models:/{name}/1), or call the variant otherwise"
        )
    uri = mlflow_at.tracking_uri(project)
    shown = mlflow_at.without_password(uri)
    if not mlflow_at.answers(uri):
        raise AssayError(f"{key}: MLflow does not answer at {shown}")
    database = mlflow_at.local_database(uri)
    if database is not None and not database.exists():
        raise BadInput(f"{key}: no model is registered yet: there is no {database}. A run whose gates pass registers")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    mlflow_at.quiet()
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        number = version or str(client.get_model_version_by_alias(name, alias).version)
        location = client.get_model_version_download_uri(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise AssayError(f"{key}: MLflow at {shown}: {mlflow_at.hide(str(error), uri)}") from None
        raise BadInput(f"{key}: {_unknown(client, name, version, alias)} ({shown})") from error
    exact = f"models:/{name}/{number}"
    folder = _brought(project, key, exact, uri, location)
    return Start(exact, folder, load_card(folder))


def _parts(key: str, reference: str) -> tuple[str, str, str]:
    """Name, version and alias of a reference; one of the last two is ''."""
    rest = reference.removeprefix("models:/")
    name, _, alias = rest.partition("@")
    if not alias:
        name, _, version = rest.partition("/")
        if name and version.isdecimal():
            return name, version, ""
    if not name or not alias or "/" in rest:
        raise BadInput(f"{key}: {reference!r} is no registered model: write models:/NAME@ALIAS or models:/NAME/VERSION")
    return name, "", alias


def _unknown(client: Any, name: str, version: str, alias: str) -> str:
    """Which part of a reference there is not, and what there is."""
    known = [model.name for model in client.search_registered_models()]
    if name not in known:
        return f"there is no registered model '{name}'{_or(name, known, 'registered are', 'none is registered yet')}"
    if alias:
        return f"'{name}' has no alias '{alias}'" + _or(
            alias, sorted(client.get_registered_model(name).aliases), "it has", "it has none; name a version"
        )
    numbers = sorted(int(v.version) for v in client.search_model_versions(f"name = '{name}'"))
    return f"'{name}' has no version {version}; it has {', '.join(map(str, numbers)) or 'none'}"


def _or(name: str, known: Sequence[str], has: str, none: str) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"; did you mean {' or '.join(repr(one) for one in close)}?"
    return f"; {has} {', '.join(known)}" if known else f"; {none}"


def _brought(project: Path, key: str, exact: str, uri: str, location: str) -> Path:
    """The artifact folder of a registered model, whole or not at all; fetched once."""
    import mlflow
    from mlflow.exceptions import MlflowException

    name = hashlib.sha256(f"{uri}\n{location}".encode()).hexdigest()[:16]
    folder = project.resolve() / KEPT / name
    if folder.is_dir():
        return folder
    fresh = folder.with_name(f"{name}.{os.getpid()}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{location}/{ARTIFACT}", dst_path=str(fresh), tracking_uri=uri
        )
        found = next(path.parent for path in fresh.rglob("model.json"))
        if not folder.is_dir():
            os.rename(found, folder)
    except (MlflowException, OSError, StopIteration) as error:
        raise BadInput(
            f"{key}: {exact} is no model that Assay registered, or its files are gone: Assay starts from its own model "
            f"artifacts only. Of another model write the weights to a safetensors file, and name that"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder
