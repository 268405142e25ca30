"""The cells of `attribute`: a saliency method on a model, two maps compared, one model's maps audited."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from assay.plugins.contract import Batch, Data, DataSpec, NotAuditable, Number, Result
from assay.tasks.artifacts import (
    load_attribution,
    load_card,
    not_auditable,
    save_attribution,
    save_not_auditable,
    save_result,
    write_json,
)
from assay.tasks.askable import unfit
from assay.tasks.inference import Inference, cached_model, inference_of
from assay.tasks.job import Job
from assay.tasks.subject import (
    cached_data,
    cached_images,
    explainer,
    make_subject,
    predict_rows,
    problem_of,
)

SAME = 1e-7


def _images(job: Job, inference: Inference) -> Batch:
    count, seed = int(job.spec["images"]), int(job.spec["seed"])
    return cached_images(job.inputs["dense"], job.inputs["data"], count, seed, str(job.device), inference)


def saliency(job: Job) -> None:
    """Attribution maps of one model on the audited images, for the dense model's predictions.

    Where the method cannot be asked of the model, or the model's predictions are constant, the artifact
    holds the reason instead.
    """
    spec = load_card(job.inputs["model"]).spec
    inference = inference_of(job.spec, job.inputs, job.device)
    images = _images(job, inference)
    model = cached_model(job.inputs["model"], str(job.device))
    prediction = predict_rows(model, images, spec, inference)
    problem = problem_of(spec)
    write_json(job.out / "kept.json", facts(problem, prediction, images, cached_data(job.inputs["data"])))
    if float((prediction - prediction[:1]).abs().max()) < SAME:
        save_not_auditable(job.out, "its predictions are all the same")
        return
    unfitting = unfit(job.method(), spec.modality)
    if unfitting:
        save_not_auditable(job.out, unfitting)
        return
    explain = explainer(job.method(), int(job.spec["seed"]), spec, job.device, inference)
    try:
        save_attribution(job.out, explain(model, images))
    except NotAuditable as reason:
        save_not_auditable(job.out, str(reason))


def facts(problem: Any, prediction: Tensor, images: Batch, data: Data) -> dict[str, Any]:
    """Which images keep the dense model's target, and what tells a collapsed model: whether all targets
    are the same, its mean error and that error's standard error, the error at chance."""
    images = images.to("cpu")
    target = problem.target(prediction)
    error = problem.error(prediction, images).double()
    return {
        "kept": problem.same(target, images.target).tolist(),
        "constant": bool((target == target[:1]).all()),
        "error": float(error.mean()),
        "chance": problem.chance(data),
        "chance_error": float(error.std()) / images.size**0.5,
    }


def agreement(job: Job) -> None:
    """One number an image for how alike the maps `a` and `b` are."""
    for role in ("a", "b"):
        reason = not_auditable(job.inputs[role])
        if reason:
            save_not_auditable(job.out, reason)
            return
    method = job.method()
    a, b = load_attribution(job.inputs["a"]), load_attribution(job.inputs["b"])
    if a.over != b.over or a.values.shape != b.values.shape:
        save_not_auditable(job.out, f"maps over {a.over} {tuple(a.values.shape)} and {b.over} {tuple(b.values.shape)}")
        return
    each = method.agree(a, b).double()
    if not bool(torch.isfinite(each).any()):
        save_not_auditable(job.out, "every map is constant: there is nothing to compare")
        return
    paragraph = " ".join((type(method).__doc__ or "").split("\n\n")[0].split())
    title = f"{method.method_name()}: {paragraph}"
    number = Number(float(torch.nanmean(each)), "", 1, title, each.numpy())
    save_result(job.out, Result({method.method_name(): number}))


def audit(job: Job) -> None:
    """An audit of one model's maps."""
    reason = not_auditable(job.inputs["attribution"])
    if reason:
        save_not_auditable(job.out, reason)
        return
    method = job.method()
    spec: DataSpec = load_card(job.inputs["model"]).spec
    reason = unfit(method, spec.modality)
    if reason:
        save_not_auditable(job.out, reason)
        return
    inference = inference_of(job.spec, job.inputs, job.device)
    explain = explainer(job.method("saliency"), int(job.spec["seed"]), spec, job.device, inference)
    subject = make_subject(job.inputs, job.device, _images(job, inference), explain, inference)
    ctx = job.context(spec, method.method_name())
    attribution = load_attribution(job.inputs["attribution"])
    try:
        if job.lab is not None:
            result = method.audit(subject, attribution, ctx, lab=job.lab)
        else:
            result = method.audit(subject, attribution, ctx)
        save_result(job.out, result)
    except NotAuditable as error:
        save_not_auditable(job.out, str(error))
