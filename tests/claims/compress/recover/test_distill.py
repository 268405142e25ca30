"""Distilling (arxiv:1503.02531) beside finetuning: a pruned network of digits, the same epochs and the same choice of
learning rates for both.

The paper trains on 3 % of its speech data with the soft targets of a teacher that learned all of them (its section 6,
soft targets as regularizers): they recover almost all that labels alone lose. Here the pruned network has 60 digits,
the teacher learned 1100. Where the teacher is the dense network itself, and its data are the student's, nothing is
there to be told that the labels do not tell, and distilling is no better.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.compress.prune.magnitude import Magnitude
from assay.plugins.compress.recover.distill import Distill
from assay.plugins.compress.recover.finetune import Finetune
from assay.plugins.contract import Ask, Context, Data, DataSpec, Objective, Record, Result, Split, Trained
from assay.plugins.prepare.source.digits import digits_table
from assay.plugins.registry import make

SEEDS = (0, 1, 2)
RATES = (3e-3, 1e-2, 3e-2)
SPEC = DataSpec(shape=(1, 8, 8), classes=tuple("0123456789"))


def digits(seed: int) -> tuple[Split, Split, Split]:
    """1100 digits to train on, 200 to choose learning rates by, 497 to test on."""
    table = digits_table()
    table = table[np.random.default_rng(seed).permutation(len(table))]
    x, y = (table[:, :64].reshape(-1, 1, 8, 8) / 16).astype(np.float32), table[:, 64].astype(np.int64)
    return tuple(Split({"x": x[at], "y": y[at]}) for at in (slice(1100), slice(1100, 1300), slice(1300, None)))  # type: ignore[return-value]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


def train(
    model: nn.Module,
    data: Data,
    objective: Objective,
    ctx: Context,
    epochs: int,
    lr: float,
    restore: Callable[[], None] | None = None,
) -> None:
    """Plain training with AdamW on batches of 30, in place; `restore` is called after each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    order = torch.Generator().manual_seed(ctx.seed)
    model.train()
    objective.init(model, data, ctx)
    for _ in range(epochs):
        for at in torch.randperm(len(data.train), generator=order).split(30):
            ctx.shared.clear()
            optimizer.zero_grad()
            objective.loss(model, data.train.batch(at.numpy()), ctx).mean().backward()
            optimizer.step()
            if restore is not None:
                restore()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    batch = split.batch(slice(0, len(split)))
    return float((model(batch.x).argmax(1) == batch.y).double().mean())


def context(seed: int, **models: nn.Module) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC, seed=seed, models=models)


def fresh(data: Data, seed: int, epochs: int) -> nn.Module:
    """A dense network after this many epochs."""
    torch.manual_seed(seed)
    model = Net()
    train(model, data, make("train/objective", "cross_entropy"), context(seed), epochs, 2e-3)
    return model


class SmallLab:
    """Trains the parent on as it is asked to, its zeros restored after each step."""

    def __init__(self, parent: nn.Module, data: Data, masks: Record, models: Mapping[str, nn.Module]):
        self.parent, self.data, self.masks, self.models = parent, data, masks, models
        self.recipe: Mapping[str, Any] = {}
        self.loss = None

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        (ask,) = asks
        assert ask.start == "parent"
        model = copy.deepcopy(self.parent)
        objective = make("train/objective", ask.changes.get("objective", "cross_entropy"))
        ctx = context(0, **{role: self.models[name] for role, name in ask.models.items()})
        restore = Magnitude().constraint(model, self.masks)
        train(model, self.data, objective, ctx, ask.changes["epochs"], ask.changes["optimizer.lr"], restore=restore)
        return [Trained(model, [{"epoch": 1}], lambda name: model, [], self.data)]

    def new_model(self, seed: int) -> nn.Module:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        raise NotImplementedError


def recovered(lab: SmallLab, links: Sequence[Finetune | Distill], validation: Split, test: Split) -> float:
    """Test accuracy of the pruned network after the link that does best on the validation split."""
    found = []
    for link in links:
        model = link.apply(lab.parent, record := link.fit(lab.parent, lab.data, context(0), lab=lab))
        model.load_state_dict(dict(record.weights or {}))
        found.append((accuracy(model, validation), accuracy(model, test)))
    return max(found)[1]


def compared(seed: int, examples: int, epochs: int, sparsity: float, softness: Sequence[float]) -> dict[str, float]:
    """Test accuracy of the teacher, of finetuning and of distilling at each temperature; the teacher learned all
    1100 digits, the dense network that is pruned the first `examples`."""
    train_split, validation, test = digits(seed)
    few = Data(SPEC, {"train": train_split.take(np.arange(examples)), "test": test})
    teacher = fresh(few.replace(splits={"train": train_split}), seed, 12)
    dense = teacher if examples == len(train_split) else fresh(few, seed, 60)
    prune = Magnitude(sparsity=sparsity)
    masks = prune.fit(dense, few, context(seed))
    lab = SmallLab(prune.apply(dense, masks), few, masks, {"big": teacher})
    tuned = [Finetune(epochs=epochs, lr=lr) for lr in RATES]
    distilled = {t: [Distill(epochs=epochs, lr=lr, teacher="big", temperature=t) for lr in RATES] for t in softness}
    return {
        "teacher": accuracy(teacher, test),
        "finetune": recovered(lab, tuned, validation, test),
        **{f"distill {t}": recovered(lab, links, validation, test) for t, links in distilled.items()},
    }


@pytest.mark.claim
def test_soft_targets_of_a_teacher_that_saw_more_recover_more_than_labels() -> None:
    found = [compared(seed, 60, 40, 0.8, (1.0, 4.0)) for seed in SEEDS]
    for row in found:
        assert row["distill 4.0"] > row["finetune"] + 0.02, found
        assert row["distill 4.0"] > row["distill 1.0"], found  # it is the softening that tells more


@pytest.mark.claim
def test_the_dense_network_as_teacher_on_its_own_data_recovers_no_more_than_labels() -> None:
    found = [compared(seed, 1100, 2, 0.95, (4.0,)) for seed in SEEDS]
    gains = [row["distill 4.0"] - row["finetune"] for row in found]
    assert abs(sum(gains)) / len(gains) < 0.02, found
