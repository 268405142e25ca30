"""Telling unfamiliar data by the Mahalanobis distance of features."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Card, Context, DataSpec, Evaluator, Field, NotAuditable, Result, Split, Subject
from assay.plugins.evaluate._common import labels, pixels
from assay.plugins.evaluate.ood._common import DETECTION, detection, further_split


@dataclass(frozen=True)
class Gaussians:
    """Class-conditional Gaussians with one covariance: means (C, D), and a matrix (D, rank) that whitens."""

    means: Tensor
    whitening: Tensor


def fit_gaussians(features: Tensor, y: Tensor, shrinkage: float = 0.0) -> Gaussians:
    """Class means and tied covariance of features (N, D) with classes `y` (N,).

    The covariance is (1 - s) S + s tr(S)/D I for shrinkage s; it is inverted as a pseudo-inverse:
    directions in which it is zero up to rounding are left out. Raises NotAuditable where it is all zero.
    """
    present = y.unique()
    means = torch.stack([features[y == c].mean(dim=0) for c in present])
    centred = features - means[torch.searchsorted(present, y)]
    covariance = centred.T @ centred / len(features)
    spread = covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance + shrinkage * spread * torch.eye(
        len(covariance), dtype=features.dtype, device=features.device
    )
    values, vectors = torch.linalg.eigh(covariance)
    # Features come from float32 forward passes: relative differences below this are rounding.
    kept = values > values[-1] * 1e-10
    if values[-1] <= 0 or not kept.any():
        raise NotAuditable("the features do not vary within the classes")
    return Gaussians(means, vectors[:, kept] * values[kept].rsqrt())


def distances(features: Tensor, gaussians: Gaussians) -> Tensor:
    """Squared Mahalanobis distance to the nearest class mean (N,)."""
    points, centres = features @ gaussians.whitening, gaussians.means @ gaussians.whitening
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, centres, compute_mode=exact).amin(dim=1).square()


def headless(model: nn.Module) -> nn.Module:
    """A copy of the model without its head: it gives the head's inputs, the penultimate features.

    Raises NotAuditable where the model has no child `head`.
    """
    if not hasattr(model, "head"):
        raise NotAuditable("the model has no `head` whose inputs could be its features")
    body = copy.deepcopy(model)
    body.head = nn.Identity()
    return body


def features_of(body: nn.Module, x: Tensor) -> Tensor:
    """Penultimate features (N, D) in float64 of a model without its head."""
    features: Tensor = body(x)
    return features.flatten(1).double()


def nudge(body: nn.Module, x: Tensor, gaussians: Gaussians, spec: DataSpec, noise: float) -> Tensor:
    """Inputs moved by `noise` pixel units in the direction that shortens their distance, within pixel bounds.

    Raises NotAuditable where no gradient reaches the input.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total = distances(features_of(body, x), gaussians).sum()
        gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        raise NotAuditable("no gradient reaches the input, and `noise` needs one")
    low, high, scale = pixels(spec, x)
    return (x.detach() - noise * scale * gradient.sign()).clamp(low, high)


class Mahalanobis(Evaluator):
    """How well the distance to the nearest class, in features, tells a further data set from the test split.

    One Gaussian per class, all with one covariance, is fitted to the model's penultimate features of
    training examples; the score is the squared Mahalanobis distance to the nearest class mean. Of an int8
    model the features are its fake-quantised twin's. The paper's input preprocessing is `noise`, off by
    default because it has to be tuned; left out is its ensemble over all layers, whose weights it fits on
    out-of-distribution examples. Arrays: `known` and `further`, the scores of both.
    """

    card = Card(
        title="A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
        paper="arxiv:1807.03888",
        claim="Distance to class-conditional Gaussians in feature space tells out-of-distribution data better than "
        "the maximum softmax probability does (here on the last features alone, without the layers' ensemble).",
        verdict="reproduced",
        problems=("classification", "graph"),
        needs=("train_data",),
    )
    ood: str = Field(
        "ood", min_length=1, description="name of the further data set", json_schema_extra={"names": "datasets"}
    )
    max_train: int = Field(10_000, ge=2, description="training examples to fit on, drawn by the seed")
    shrinkage: float = Field(0.0, ge=0, le=1, description="share of the covariance replaced by a sphere of equal trace")
    noise: float = Field(0.0, ge=0, description="size of the input preprocessing, in pixel units; 0 leaves it out")

    def numbers(self) -> tuple[str, ...]:
        return DETECTION

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        further = further_split(subject, self.ood)
        train = subject.data["main"].train
        chosen = torch.randperm(len(train), generator=ctx.rng)[: self.max_train].sort().values.numpy()
        train, body = train.take(chosen), headless(subject.model)
        with torch.no_grad():
            parts = [features_of(body, b.x.to(ctx.device)) for b in train.batches(ctx.batch_limit)]
        features = torch.cat(parts)
        if not torch.isfinite(features).all():
            raise NotAuditable("the features of some training examples are NaN or infinite")
        gaussians = fit_gaussians(features, labels(train).to(ctx.device), self.shrinkage)
        known, far = (self.scores(body, split, gaussians, ctx) for split in (subject.data["main"].test, further))
        return detection(known, far, "Mahalanobis distance to the nearest class")

    def scores(self, body: nn.Module, split: Split, gaussians: Gaussians, ctx: Context) -> np.ndarray:
        """Squared distances (N,) of a split's examples."""
        found = [np.empty(0)]
        for batch in split.batches(ctx.batch_limit):
            x = batch.x.to(ctx.device)
            if self.noise:
                x = nudge(body, x, gaussians, ctx.spec, self.noise)
            with torch.no_grad():
                found.append(distances(features_of(body, x), gaussians).cpu().numpy())
        return np.concatenate(found)
