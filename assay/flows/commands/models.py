"""export, predict, promote."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from assay.flows.commands.runs import print_json
from assay.flows.session import Session, open_session
from assay.plugins.values import AssayError, BadInput


def model_folder(session: Session, model: str) -> Path:
    """The artifact of a finished run's model. Raises BadInput where it is unknown or not computed, AssayError
    where it is not as it was written."""
    if model not in session.plan.models:
        raise BadInput(f"there is no model {model!r}: the params have {', '.join(session.plan.models)}")
    ref = session.plan.models[model]
    if not session.store.has(ref.slot, ref.key):
        raise BadInput(f"model {model!r} of these params is not computed yet: `assay run` does it")
    wrong = session.store.damage(ref.slot, ref.key)
    if wrong:
        raise AssayError(f"model {model!r} is damaged ({', '.join(wrong[:3])}): `assay run` computes it again")
    return session.store.folder(ref.slot, ref.key)


def exported_file(session: Session, model: str) -> Path | None:
    """The ONNX file on which a model of the run was measured; None where it was measured otherwise, or the file
    is not in the store as it was written."""
    ref = session.plan.exported.get(model)
    if ref is None or session.store.damage(ref.slot, ref.key):
        return None
    return session.store.folder(ref.slot, ref.key) / "model.onnx"


def inference(session: Session) -> Any:
    """How the run's models predict. Raises BadInput where a model that the method asks is not computed."""
    from assay.tasks.inference import Inference
    from assay.tasks.params import named_by

    plan, store = session.plan, session.store
    method = plan.params.predict
    if method is None:
        return Inference()
    named = {name: plan.model_named(name) for name in named_by(method, "trainings").values()}
    for name, ref in named.items():
        if not store.has(ref.slot, ref.key):
            raise BadInput(f"training {name!r} of these params is not computed yet: `assay run` does it")
    folders = tuple((name, store.folder(ref.slot, ref.key)) for name, ref in sorted(named.items()))
    return Inference(method, plan.params.section_seed("evaluate"), folders, plan.env.device)


def export(model: str, target: Path, params: Path, overrides: Sequence[str]) -> None:
    """Writes a model as ONNX, and `<target>.json` with all that it takes to use it: input, preprocessing, classes."""
    from assay.tasks.artifacts import load_card, load_model, write_json
    from assay.tasks.export import export_onnx
    from assay.tasks.serve import describe

    session = open_session(params, overrides)
    folder = model_folder(session, model)
    if target.is_dir():
        raise BadInput(f"{target} is a folder: name the ONNX file to write")
    if target.suffix == ".json":
        raise BadInput(f"{target}: beside the ONNX file stands a .json of the same name: end this one in .onnx")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp.onnx")
    measured = exported_file(session, model)
    if measured is not None:
        shutil.copyfile(measured, temporary)
    else:
        export_onnx(load_model(folder), load_card(folder).spec, temporary)
    shutil.move(temporary, target)
    write_json(target.with_suffix(".json"), describe(folder, model))
    Console(stderr=True).print(f"wrote {target} and {target.with_suffix('.json')}", highlight=False)


def predict(
    model: str, inputs: Sequence[Path], params: Path, overrides: Sequence[str], saliency: str, out: Path, as_json: bool
) -> None:
    """Prints the label and probability of each image, as the deployed model answers; writes saliency maps where a
    method is named. Of an array it writes the predictions."""
    from assay.tasks.serve import ARRAY

    if any(path.suffix == ARRAY for path in inputs):
        if len(inputs) > 1 or saliency:
            raise BadInput(f"give one {ARRAY} file and no --saliency, or image files: an array has predictions alone")
        _predict_array(model, inputs[0], params, overrides, out, as_json)
    else:
        _predict_images(model, inputs, params, overrides, saliency, out, as_json)


def _predict_array(model: str, path: Path, params: Path, overrides: Sequence[str], out: Path, as_json: bool) -> None:
    import numpy as np

    from assay.tasks.serve import predict_array

    session = open_session(params, overrides)
    folder, exported = model_folder(session, model), exported_file(session, model)
    found = predict_array(folder, path, session.plan.env.device, exported, inference(session))
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{path.stem}-{model}.npy"
    np.save(target, found)
    if as_json:
        print_json({"file": str(target), "shape": list(found.shape)})
    else:
        Console().print(f"wrote {target}: {' x '.join(map(str, found.shape))}", highlight=False)


def _predict_images(
    model: str, images: Sequence[Path], params: Path, overrides: Sequence[str], saliency: str, out: Path, as_json: bool
) -> None:
    from assay.tasks.artifacts import load_card
    from assay.tasks.serve import predict_images, resized, write_maps

    session = open_session(params, overrides)
    folder = model_folder(session, model)
    device = session.plan.env.device
    how = inference(session)
    rows, batch = predict_images(folder, images, device, exported_file(session, model), how)
    if saliency:
        for row, path in zip(rows, write_maps(folder, batch, saliency, out, rows, device, how), strict=True):
            row["map"] = str(path)
    note = resized(rows, load_card(folder).raw)
    if note:
        print(note, file=sys.stderr)
    if as_json:
        print_json(rows)
        return
    shown = Table("image", "label", "probability", *(["map"] if saliency else []), box=None)
    for row in rows:
        best = max(row["probabilities"].values())
        shown.add_row(row["image"], row["label"], f"{best:.3f}", *([row["map"]] if saliency else []))
    Console().print(shown)


def promote(variant: str, params: Path) -> None:
    """Sets the alias `champion` on the variant's registered candidate."""
    from assay.tasks.track import promote as set_champion

    session = open_session(params)
    if variant not in session.plan.variants:
        raise BadInput(f"there is no variant {variant!r}: the params have {', '.join(session.plan.variants)}")
    name, version, pipeline = set_champion(session.project, variant, session.plan.models[variant].key)
    Console(stderr=True).print(f"{name} version {version}, of pipeline {pipeline}, is now champion", highlight=False)
