"""The cells of `evaluate`: one evaluator on one model, and a model's export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from assay.plugins.contract import NotAuditable, Result, Subject
from assay.tasks.artifacts import load_card, load_model, save_not_auditable, save_result
from assay.tasks.askable import unfit
from assay.tasks.export import export_onnx
from assay.tasks.inference import Inference, inference_of
from assay.tasks.job import Job
from assay.tasks.subject import loss_by, make_subject, predictor


def evaluate(job: Job) -> None:
    """An evaluator's numbers and arrays on one model, or also along its training's kept checkpoints; the
    reason where it cannot be asked of it."""
    method = job.method()
    inference = inference_of(job.spec, job.inputs, job.device)
    subject = make_subject(job.inputs, job.device, inference=inference, loss=loss_by(job.method("objective")))

    reason = unfit(method, subject.spec.modality)
    if not inference.differentiable and "grad" in method.card.needs:
        # It would differentiate the network alone, and call that the prediction's.
        reason = f"it needs the gradient of predictions, and {inference.method.method_name()} leaves none"
    if reason:
        save_not_auditable(job.out, reason)
        return

    def ask(one: Subject) -> Result:
        result: Result = method.evaluate(one, job.context(subject.spec, method.method_name()))
        return result

    try:
        save_result(job.out, ask(subject) if method.over == "model" else along(subject, inference, ask))
    except NotAuditable as error:
        save_not_auditable(job.out, str(error))


def along(subject: Subject, inference: Inference, ask: Callable[[Subject], Result]) -> Result:
    """The result on the model itself, with an array `<number>_by_epoch` for each number and the epochs where a
    training with kept checkpoints is behind it: behind a variant there is none."""
    final = ask(subject)
    if subject.trajectory is None:
        return final
    epochs: list[int] = []
    values: dict[str, list[float]] = {name: [] for name in final.numbers}
    for name, model in subject.trajectory():
        at = replace(
            subject,
            model=model,
            predict=predictor(model, subject.spec, inference),
            exported=None,
            runtime=None,
            through=inference.around(model, subject.spec),
        )
        numbers = ask(at).numbers
        epochs.append(int(name.rsplit("-", 1)[-1]))
        for key, found in values.items():
            found.append(numbers[key].value if key in numbers else float("nan"))
    arrays = {f"{key}_by_epoch": np.array(found) for key, found in values.items()}
    return Result(final.numbers, {**final.arrays, "epoch": np.array(epochs), **arrays})


def export(job: Job) -> None:
    """A model as `model.onnx`: what is deployed, weighed and timed."""
    folder = job.inputs["model"]
    export_onnx(load_model(folder), load_card(folder).spec, job.out / "model.onnx")
