"""The randomization test: can the recipe fit labels that mean nothing?"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from assay.plugins.contract import Ask, Card, Context, Field, Lab, Number, Result, Split, Study


def accuracy(model: nn.Module, split: Split, rows: int) -> float:
    """The share of a split's examples whose highest output is their label, `rows` at a time."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        right = sum(int((model(b.x.to(device)).argmax(1).cpu() == b.y).sum()) for b in split.batches(rows))
    return right / len(split)


class RandomizationTest(Study):
    """Trains the recipe on labels of which a growing share is drawn uniformly at random from all classes.

    A recipe that reaches full training accuracy on random labels can memorise: its accuracy on real labels
    is then no matter of a lack of capacity. Of the paper's randomisations it has the labels (partly and wholly
    random), not the pixels.
    """

    card = Card(
        title="Understanding deep learning requires rethinking generalization",
        paper="arxiv:1611.03530",
        claim="A network that generalises on true labels fits random labels perfectly, where its test accuracy is "
        "at chance; in between, test accuracy falls steadily as more labels are random.",
        verdict="reproduced",
        problems=("classification",),
    )
    fractions: tuple[float, ...] = Field(
        (0.0, 0.5, 1.0), min_length=2, examples=[(0.0, 1.0)], description="shares of random labels, each trained once"
    )
    epochs: int = Field(0, ge=0, le=100_000, description="epochs of each training; 0: those of the recipe")
    seeds: int = Field(3, ge=1, le=100, description="trainings of each share")

    def study(self, lab: Lab, ctx: Context) -> tuple[Result, str]:
        changes = {"epochs": self.epochs} if self.epochs else {}
        asks = [
            Ask(
                changes=changes,
                seed=ctx.seed % 2**31 + seed,
                transforms=[{"name": "transform/label_noise", "fraction": share, "kind": "uniform"}],
            )
            for share in self.fractions
            for seed in range(self.seeds)
        ]
        trained = lab.train(asks)
        fitted = np.array([accuracy(t.model, t.data.train, ctx.batch_limit) for t in trained])
        tested = np.array([accuracy(t.model, t.data.test, ctx.batch_limit) for t in trained])
        fitted, tested = (values.reshape(len(self.fractions), self.seeds) for values in (fitted, tested))
        counts = np.bincount(np.asarray(lab.data.test.fields["y"]), minlength=len(lab.data.spec.classes))
        chance = float(counts.max() / counts.sum())
        last = int(np.argmax(self.fractions))
        numbers = {
            "fitted": Number(
                float(fitted[last].mean()), "", 0, "Training accuracy on the labels with the largest random share."
            ),
            "tested": Number(float(tested[last].mean()), "", 0, "Test accuracy after that training."),
            "chance": Number(chance, "", 0, "Share of the test split's most frequent class."),
        }
        arrays = {
            "fraction": np.array(self.fractions),
            "training_accuracy": fitted.mean(1),
            "test_accuracy": tested.mean(1),
            "test_accuracy_lowest": tested.min(1),
            "test_accuracy_highest": tested.max(1),
        }
        reached, left = float(fitted[last].mean()), float(tested[last].mean())
        fits = "fits" if reached > 0.99 else "does not fit"
        verdict = (
            f"the recipe {fits} labels of which {self.fractions[last]:.0%} are random "
            f"(training accuracy {reached:.3f}, test accuracy {left:.3f}, chance {chance:.3f})"
        )
        return Result(numbers, arrays), verdict
