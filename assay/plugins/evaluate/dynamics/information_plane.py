"""The information plane: what each layer knows of the input and of the label, along a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins._networks import weighted_parts
from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Number, Result, Split, Subject, tap
from assay.plugins.evaluate._common import labels
from assay.plugins.evaluate.dynamics._common import course, part

BOUNDED: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
}
OUTPUT = "output"


def patterns(activations: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    """Which pattern of bins each row of (N, units) is: (N,) numbers from 0, the same for the same pattern.

    Each unit's value falls into one of `bins` equal bins of [low, high]; values beyond go to the outermost.
    """
    width = (high - low) / bins or 1.0
    codes = np.clip((activations - low) / width, 0, bins - 1).astype(np.uint16)
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1] * codes.itemsize)))
    return np.unique(rows.ravel(), return_inverse=True)[1]


def entropy(values: np.ndarray) -> float:
    """The entropy in bits of whole numbers (N,) by their frequencies."""
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float((shares * np.log2(1 / shares)).sum())


def information(pattern: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """I(X;T) and I(T;Y) in bits of a layer's patterns (N,) on examples with labels (N,).

    T is a function of X, so that I(X;T) = H(T) - H(T|X) is H(T); I(T;Y) = H(T) + H(Y) - H(T,Y).
    """
    own = entropy(pattern)
    return own, max(0.0, own + entropy(y) - entropy(pattern * (y.max() + 1) + y))


def stages(model: nn.Module) -> list[list[str]]:
    """The submodules of each hidden layer, the weighted ones of `layers`. Raises NotAuditable where there are none."""
    parts = weighted_parts(model.get_submodule("layers")) if "layers" in dict(model.named_children()) else []
    if not parts:
        raise NotAuditable("the model has no hidden layers in a child `layers`")
    return [[f"layers.{name}" for name in part] for part in parts]


def activations(model: nn.Module, names: Sequence[str], split: Split, ctx: Context) -> list[np.ndarray]:
    """What the named submodules put out for each example, then the predicted probabilities: (N, units) each."""
    parts: list[list[Tensor]] = [[] for _ in range(len(names) + 1)]
    with torch.no_grad(), tap(model, names) as seen:
        for batch in split.batches(ctx.batch_limit):
            output = model(batch.x.to(ctx.device)).softmax(dim=1)
            for kept, values in zip(parts, [*(seen[name] for name in names), output], strict=True):
                kept.append(values.flatten(1).cpu())
    return [torch.cat(kept).numpy() for kept in parts]


def bounds(model: nn.Module, name: str, low: float, high: float) -> tuple[float, float]:
    """Where a layer's bins lie: the bounds of the activation that ends it, where it has any, else the range [low,
    high] that was observed."""
    if name == OUTPUT:
        return 0.0, 1.0
    known = BOUNDED.get(type(list(model.get_submodule(name).modules())[-1]))
    return known if known is not None and known[0] <= low and high <= known[1] else (low, high)


def layer_gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """The loss's gradient in each hidden layer's parameters and in all others: a flat tensor each."""
    groups = [[p for name in stage for p in model.get_submodule(name).parameters()] for stage in stages(model)]
    inside = {p for group in groups for p in group}
    groups.append([p for p in model.parameters() if p not in inside])
    wanted = [p for group in groups for p in group if p.requires_grad]
    grads = dict(zip(wanted, torch.autograd.grad(loss, wanted, materialize_grads=True), strict=True))
    flat = [[grads.get(p, torch.zeros_like(p)).flatten() for p in group] for group in groups]
    return [torch.cat(parts) if parts else loss.new_zeros(0) for parts in flat]


def mean_to_std(gradients: Iterable[Sequence[Tensor]]) -> np.ndarray:
    """||mean|| / ||std|| over batches of each layer's gradient (layers,); NaN where all batches have the same.

    The mean of B batches is at least about 1 / sqrt(B) of the deviation, by chance alone.
    """
    mean, square, count = [torch.zeros(())], [torch.zeros(())], 0
    for found in gradients:
        count += 1
        if count == 1:
            mean, square = [torch.zeros_like(g) for g in found], [torch.zeros_like(g) for g in found]
        for m, s, g in zip(mean, square, found, strict=True):  # squares about the running mean
            off = g - m
            m += off / count
            s += off * (g - m)
    tops = np.array([float(m.norm()) for m in mean])
    deviations = np.array([float((s.sum() / count).sqrt()) for s in square])
    return np.divide(tops, deviations, out=np.full(len(tops), np.nan), where=deviations > 0)


class InformationPlane(Evaluator):
    """I(X;T) and I(T;Y) of each layer T at each kept checkpoint, by binning its activations over training
    examples, and the ratio of the gradient's mean to its deviation between batches.

    The estimate belongs to the bins as much as to the network, which as a function of real numbers need not lose
    anything of X: between bins, a unit that saturates looks like one that forgets. Tanh is binned over [-1, 1], as
    the paper does, layers without bounds over the range that they have at any kept checkpoint, as Saxe et al. do
    for ReLU, and the predicted probabilities (`output`) over [0, 1]. Wide layers saturate at log2(examples).

    Arrays: `epoch` (K,), `layer` (L,), and by epoch and layer (K, L) `bits_about_input`, `bits_about_label`,
    `gradient_mean_to_std` (the last where the objective is a function of predictions; of `output`, it is that of
    all parameters outside `layers`).
    """

    card = Card(
        title="Opening the Black Box of Deep Neural Networks via Information",
        paper="arxiv:1703.00810",
        also=("Saxe et al., On the Information Bottleneck Theory of Deep Learning, ICLR 2018",),
        claim="In a tanh network the deeper layers first learn about the label and then lose most of what they know "
        "about the input; in a ReLU network they keep it.",
        verdict="reproduced",
        problems=("classification",),
        needs=("trajectory", "train_data", "grad"),
    )
    bins: int = Field(30, ge=2, le=65535, description="equal bins for each unit's activation")
    examples: int = Field(4096, ge=2, description="training examples that frequencies are counted over")
    batch: int = Field(256, ge=1, description="examples in a batch of the gradient's deviation, as in the training")

    def numbers(self) -> tuple[str, ...]:
        return ("about_input", "about_label", "compression", "diffusion")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        kept = course(subject)
        models = [model.to(ctx.device) for _, model in kept]
        split = part(subject.data["main"].train, self.examples, ctx.rng)
        names = [stage[-1] for stage in stages(models[0])] + [OUTPUT]
        bits = self.plane(models, names, split, ctx)
        ratios = self.ratios(subject, models, split, ctx)
        epochs = np.array([epoch for epoch, _ in kept])
        arrays = {
            "epoch": epochs,
            "layer": np.array(names),
            "plane": np.array(["bits_about_input", "bits_about_label"]),
            "bits_about_input": bits[:, :, 0],
            "bits_about_label": bits[:, :, 1],
        }
        if ratios is not None:
            arrays["gradient_mean_to_std"] = ratios
        return Result(self.summary(bits, ratios, epochs), arrays)

    def plane(self, models: Sequence[nn.Module], names: Sequence[str], split: Split, ctx: Context) -> np.ndarray:
        """(checkpoints, layers, 2): I(X;T) and I(T;Y) in bits."""
        y = labels(split).numpy()
        ranges = np.array(
            [[(a.min(), a.max()) for a in activations(model, names[:-1], split, ctx)] for model in models]
        )
        low, high = ranges[:, :, 0].min(0), ranges[:, :, 1].max(0)
        edges = [bounds(models[0], name, float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)]
        return np.array(
            [
                [
                    information(patterns(a, *edge, self.bins), y)
                    for a, edge in zip(activations(model, names[:-1], split, ctx), edges, strict=True)
                ]
                for model in models
            ]
        )

    def ratios(self, subject: Subject, models: Sequence[nn.Module], split: Split, ctx: Context) -> np.ndarray | None:
        """(checkpoints, layers): the gradient's mean to its deviation over whole batches, the same for all."""
        loss = subject.loss
        if loss is None:
            return None
        size = min(self.batch, len(split) // 2)
        order = torch.randperm(len(split), generator=ctx.rng)
        batches = [split.batch(index.numpy()).to(ctx.device) for index in order.split(size) if len(index) == size]
        with torch.enable_grad():
            return np.array(
                [
                    mean_to_std(layer_gradients(model, loss(model(batch.x), batch).mean()) for batch in batches)
                    for model in models
                ]
            )

    def summary(self, bits: np.ndarray, ratios: np.ndarray | None, epochs: np.ndarray) -> dict[str, Number]:
        """The numbers: of the last hidden layer, and of all layers' gradients."""
        about_input, about_label = bits[:, -2, 0], bits[:, -2, 1]
        diffuse = np.zeros(0) if ratios is None else epochs[np.nanmedian(ratios, axis=1) < 1]
        return {
            "about_input": Number(
                about_input[-1], "bits", 0, "I(X;T) of the last hidden layer at the last kept checkpoint, by binning."
            ),
            "about_label": Number(
                about_label[-1], "bits", 0, "I(T;Y) of the last hidden layer at the last kept checkpoint, by binning."
            ),
            "compression": Number(
                float(about_input.max() - about_input[-1]),
                "bits",
                0,
                "What the last hidden layer has lost of I(X;T) since the kept checkpoint at which it was largest.",
            ),
            "diffusion": Number(
                float(diffuse[0]) if len(diffuse) else float("nan"),
                "epoch",
                0,
                "The first kept epoch at which the gradient's mean is smaller than its deviation between batches, in "
                "the median layer; NaN where there is none.",
            ),
        }
