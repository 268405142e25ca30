"""Linear mode connectivity: the barrier between two trainings that part at some epoch."""

from __future__ import annotations

import numpy as np
from torch import nn

from assay.plugins.contract import Ask, Card, Context, Field, Lab, Number, Result, Study, Trained
from assay.plugins.study._common import barrier, mean_loss_on, mixed

APART = -1


def layers_of(model: nn.Module) -> dict[str, list[str]]:
    """The state dict's entries by the module that owns them, of modules that own parameters."""
    return {
        name: [f"{name}.{key}" for key in module.state_dict()]
        for name, module in model.named_modules()
        if name and list(module.parameters(recurse=False))
    }


class ModeConnectivity(Study):
    """Pairs of trainings that share their first k epochs and then draw other batches; and pairs that share
    nothing, not even the initial weights. The barrier of a pair is
    max_a L((1 - a) t1 + a t2) - [(1 - a) L(t1) + a L(t2)], on the training split.

    What a pair shares is the model after k epochs, nothing else: its rest is a new training from there, whose
    optimizer starts without moments and whose schedule starts anew, over the epochs that are left (as that of the
    first k was over those k). The paper parts a training that goes on.

    Also layer by layer: only one layer's weights go from the first solution to the second. The paper's estimate
    of a barrier's height is not here. Running statistics are interpolated like weights and not computed anew,
    which raises the barriers of networks with batch norm.
    """

    card = Card(
        title="Landscaping Linear Mode Connectivity",
        paper="arxiv:2406.16300",
        also=("arxiv:1912.05671",),
        claim="Two solutions that share nothing are separated by a barrier of the loss; of solutions that part later "
        "in training (from a shared model, each with a new optimizer and schedule) it is lower, and so it is where "
        "those that share nothing exchange one layer alone.",
        verdict="reproduced",
    )
    epochs: int = Field(10, ge=1, le=100_000, examples=[2], description="epochs of each whole training")
    parts: tuple[int, ...] = Field(
        (0, 2, 5), min_length=1, examples=[(1,)], description="epochs after which pairs part"
    )
    pairs: int = Field(3, ge=1, le=100, examples=[1], description="pairs for each of these")
    points: int = Field(11, ge=3, le=1001, examples=[3], description="points on the line between two solutions")

    def asks(self, seed: int) -> list[Ask]:
        """Two trainings for each pair: first of those that share nothing, then by epoch of parting."""
        whole, found = {"epochs": self.epochs}, []
        for pair in range(self.pairs):
            first = seed + 1000 * pair
            found += [Ask(changes=whole, seed=first), Ask(changes=whole, seed=first + 1)]
        for shared in self.parts:
            for pair in range(self.pairs):
                first = seed + 1000 * pair
                start = Ask(changes={"epochs": min(shared, self.epochs)}, seed=first)
                rest = {"epochs": max(self.epochs - shared, 0)}
                found += [Ask(changes=rest, seed=first + 2 + twin, start=start) for twin in (0, 1)]
        return found

    def study(self, lab: Lab, ctx: Context) -> tuple[Result, str]:
        trained = lab.train(self.asks(ctx.seed % 2**30))
        shared = np.repeat([APART, *self.parts], self.pairs)
        pairs = list(zip(trained[::2], trained[1::2], strict=True))
        heights = np.array([self.height(lab, a, b, ctx) for a, b in pairs])
        names = list(layers_of(trained[0].model))
        a, b = pairs[0]
        by_layer = np.array([self.height(lab, a, b, ctx, layer) for layer in names])
        means = np.array([heights[shared == k].mean() for k in (APART, *self.parts)])
        numbers = {
            "apart": Number(means[0], "", 0, "Mean barrier of the training loss between solutions that share nothing."),
            "parted": Number(means[-1], "", 0, "Mean barrier between solutions that part at the last of these epochs."),
            "one_layer": Number(
                float(by_layer.mean()), "", 0, "Mean over layers of the barrier where one layer alone is exchanged."
            ),
        }
        arrays = {
            "shared_epochs": np.array([APART, *self.parts]),
            "barrier": means,
            "lowest": np.array([heights[shared == k].min() for k in (APART, *self.parts)]),
            "highest": np.array([heights[shared == k].max() for k in (APART, *self.parts)]),
            "layer": np.array(names),
            "layer_barrier": by_layer,
        }
        verdict = (
            f"solutions that share nothing are {means[0]:.3g} apart in loss, "
            f"those that part after {self.parts[-1]} of {self.epochs} epochs {means[-1]:.3g}"
        )
        return Result(numbers, arrays), verdict

    def height(self, lab: Lab, a: Trained, b: Trained, ctx: Context, layer: str | None = None) -> float:
        """The barrier between two solutions, or where one layer alone is exchanged."""
        only = None if layer is None else layers_of(a.model)[layer]
        alphas = np.linspace(0.0, 1.0, self.points)
        models = (mixed(a.model, b.model, float(alpha), only) for alpha in alphas)
        losses = np.array([mean_loss_on(lab, model, a.data.train, ctx.batch_limit) for model in models])
        return barrier(losses, alphas)
