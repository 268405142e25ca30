"""Data set distillation by matching expert trajectories, with constant memory and soft labels (TESLA)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from assay.plugins.contract import Ask, BadInput, Card, Context, Data, Field, Lab, Record, Split, Trained, Transform
from assay.plugins.prepare.transform._common import model_units

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Flat weights (P,), inputs and labels to the mean loss of a network with these weights."""


def matching(
    loss: Loss, start: Tensor, target: Tensor, x: Tensor, y: Tensor, lr: float, batches: Sequence[Tensor]
) -> tuple[float, Tensor, float]:
    """The matching loss of a student, and its gradients in the examples (the shape of `x`) and in `lr`.

    The student goes from the expert's weights `start` by gradient steps theta_i+1 = theta_i - lr g_i, with g_i the
    gradient of the loss on the examples `batches[i]`. With G the sum of all g_i its distance to the expert's later
    weights `target` is L = |start - lr G - target|^2 / |start - target|^2. Where the weights theta_i count as given,
    dL/dx = sum_i d/dx <2 (lr (target - start) + lr^2 G) / |start - target|^2, g_i>: a first walk finds G, a second one
    differentiates step by step, so that one step's graph is held at a time.
    """
    total = torch.zeros_like(start)
    weights = start
    for at in batches:
        step = slope(loss, weights, x[at], y[at]).detach()
        total += step
        weights = weights - lr * step
    scale = (start - target).square().sum()
    miss = start - lr * total - target
    pull = -2 * lr * miss / scale

    gradient = torch.zeros_like(x)
    weights = start
    for at in batches:
        part = x[at].detach().requires_grad_()
        step = slope(loss, weights, part, y[at])
        gradient[at] += torch.autograd.grad(pull @ step, part)[0]
        weights = weights - lr * step.detach()
    return float(miss.square().sum() / scale), gradient, float(-2 * miss @ total / scale)


def slope(loss: Loss, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The loss's gradient in the weights (P,), which can be differentiated in `x` where that asks for it."""
    weights = weights.detach().requires_grad_()
    return torch.autograd.grad(loss(weights, x, y), weights, create_graph=x.requires_grad)[0]


def loss_of(network: nn.Module) -> Loss:
    """The cross-entropy of a network as a function of its trainable weights, flat in the order of its parameters."""
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trainable.values()]

    def loss(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(trainable.items(), weights.split(sizes), strict=True)
        given = {name: part.view_as(p) for (name, p), part in parts}
        return F.cross_entropy(functional_call(network, given, (x,)), y)

    return loss


def flat(network: nn.Module) -> Tensor:
    """A network's trainable weights (P,)."""
    return torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])


def student_batches(count: int, size: int, steps: int, rng: torch.Generator) -> list[Tensor]:
    """For each step the examples (of `count`) that it sees: all in a new order before any is seen again."""
    found: list[Tensor] = []
    while len(found) < steps:
        found.extend(torch.randperm(count, generator=rng).split(size))
    return found[:steps]


def some_of_each(y: np.ndarray, classes: int, count: int, rng: torch.Generator) -> np.ndarray:
    """Positions of `count` random examples of each class, class by class. Raises BadInput where one has fewer."""
    found = []
    for label in range(classes):
        of_class = np.flatnonzero(y == label)
        if len(of_class) < count:
            raise BadInput(
                f"transform/trajectory_matching with per_class {count} starts from as many examples of each class; "
                f"class {label} has {len(of_class)}"
            )
        found.append(of_class[torch.randperm(len(of_class), generator=rng)[:count].numpy()])
    return np.concatenate(found)


class TrajectoryMatching(Transform):
    """Puts a few learned examples of each class in the place of the training split: a network trained on them moves
    as experts do that are trained on all of it.

    Experts are trained by the run's recipe, with epochs of their own; those of the paper by gradient descent without
    momentum. In each iteration a student starts at a random early epoch of a random expert, takes
    `student_steps` steps of gradient descent on the learned examples, and these move so that it ends nearer to where
    the expert is `expert_epochs` later. Their labels are their classes or (`labels: expert`) what that later expert
    answers to them; the last one's answers are kept. The step's length is learned too; it stands in the record
    (`lr`), with the matching loss of each tenth of the iterations.

    The gradient drops the way through the student's own weights, as the authors' code does: it is not the whole
    unrolled gradient. The defaults are for small images in [0, 1]; the authors' for CIFAR-10 are 100 experts, 50 steps,
    10,000 iterations, and rates of 1000, 0.01 and 1e-7. Left out: differentiable augmentation of the student's batches
    and ZCA whitening. Learned images are not held within the valid pixels' bounds. Fields beside `x` and `y` of the
    training split are dropped.
    """

    card = Card(
        title="Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory",
        paper="arxiv:2211.10586",
        also=("arxiv:2203.11932",),
        claim="A network trained on one learned image of each class is more accurate than one trained on one real "
        "image of each class (on digits the classes' mean images do as well: 0.886 to 0.887 against 0.886 to 0.906).",
        verdict="reproduced",
        problems=("classification",),
        modality=("image", "features", "latents"),
    )
    per_class: int = Field(1, ge=1, le=10_000, description="learned examples of each class")
    labels: Literal["class", "expert"] = Field(
        "class", description="their labels: the class alone, or the expert's probabilities"
    )
    experts: int = Field(20, ge=1, le=10_000, examples=[2], description="trainings to match")
    start_epochs: int = Field(5, ge=1, le=10_000, examples=[1], description="students start at epochs 0 to this - 1")
    expert_epochs: int = Field(
        2, ge=1, le=10_000, examples=[1], description="epochs of the expert that a student matches"
    )
    student_steps: int = Field(20, ge=1, le=10_000, examples=[3], description="steps of a student")
    student_batch: int = Field(0, ge=0, description="learned examples in a student's step; 0: all of them")
    iterations: int = Field(1000, ge=1, le=10_000_000, examples=[3], description="students, one update each")
    image_lr: float = Field(3.0, gt=0, examples=[1.0], description="learning rate of the examples")
    student_lr: float = Field(0.1, gt=0, description="a student's step length before it is learned")
    lr_lr: float = Field(1e-3, ge=0, description="learning rate of the step length; 0 leaves it as it is")
    momentum: float = Field(0.5, ge=0, lt=1, description="momentum of both updates")

    def fit(self, data: Data, ctx: Context, lab: Lab) -> Record:  # type: ignore[override]
        """The learned examples. Raises BadInput where the labels are no classes, a class has too few examples, or the
        matching loss is no longer finite."""
        true = np.asarray(data.train.fields["y"])
        if true.ndim != 1:
            raise BadInput("transform/trajectory_matching needs the class `y` of each training example")
        last = self.start_epochs - 1 + self.expert_epochs
        changes = {"epochs": last, "keep": list(range(last + 1))}
        seed = ctx.seed % 2**30
        experts = lab.train([Ask(changes=changes, seed=seed + i) for i in range(self.experts)])
        chosen = some_of_each(true, data.spec.n_outputs, self.per_class, ctx.rng)
        x = torch.from_numpy(model_units(np.asarray(data.train.fields["x"][chosen]))).to(ctx.device)
        y = torch.from_numpy(true[chosen].astype(np.int64)).to(ctx.device)
        lr = torch.tensor(self.student_lr, dtype=torch.float64)
        by_x = torch.optim.SGD([x], lr=self.image_lr, momentum=self.momentum)
        by_lr = torch.optim.SGD([lr], lr=self.lr_lr, momentum=self.momentum)
        losses = []
        for _ in range(self.iterations):
            start, target = self.passage(experts, ctx)
            if self.labels == "expert":
                with torch.no_grad():
                    y = target(x).softmax(dim=1)
            batches = student_batches(len(x), self.student_batch or len(x), self.student_steps, ctx.rng)
            with torch.enable_grad():
                value, x.grad, by = matching(
                    loss_of(start.train()), flat(start), flat(target), x, y, float(lr), batches
                )
            lr.grad = torch.tensor(by, dtype=lr.dtype)
            losses.append(value)
            if not np.isfinite(value):
                raise BadInput(
                    f"transform/trajectory_matching: the matching loss is {value} at iteration {len(losses)}: a lower "
                    f"image_lr than {self.image_lr}, or lr_lr than {self.lr_lr}, may help"
                )
            by_x.step()
            by_lr.step()
        means = [float(part.mean()) for part in np.array_split(losses, min(10, len(losses)))]
        return Record({"lr": float(lr), "loss": means}, {"x": x.cpu(), "y": y.cpu()})

    def passage(self, experts: Sequence[Trained], ctx: Context) -> tuple[nn.Module, nn.Module]:
        """A random expert at a random early epoch, and the same `expert_epochs` later."""
        expert = experts[int(torch.randint(len(experts), (), generator=ctx.rng))]
        epoch = int(torch.randint(self.start_epochs, (), generator=ctx.rng))
        names = expert.checkpoints[epoch], expert.checkpoints[epoch + self.expert_epochs]
        start, target = (expert.load_checkpoint(name).to(ctx.device).eval() for name in names)
        return start, target

    def apply(self, data: Data, record: Record) -> Data:
        """The data with the learned examples as split `train`: float32 `x`, and probabilities (N, classes) or
        classes (N,) as `y`. Other splits are as they were."""
        if "train" not in data.splits:
            return data
        learned = Split({name: record.tensors[name].numpy() for name in ("x", "y")})
        return data.replace(splits={**data.splits, "train": learned})
