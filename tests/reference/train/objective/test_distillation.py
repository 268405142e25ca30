"""Distillation against the paper's formulas written out in numpy, and its limit of high temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.objective.distillation import Distillation, soft_loss

SPEC = DataSpec(shape=(5,), classes=("a", "b", "c"))


class Fixed(nn.Module):
    """Gives these outputs, whatever it is asked."""

    def __init__(self, outputs: Tensor):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs[: len(x)]


def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    """q_i = exp(z_i / T) / sum_j exp(z_j / T), the paper's equation 1."""
    raised = np.exp(logits / temperature)
    return raised / raised.sum(axis=1, keepdims=True)


def case(temperature: float, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor, Context]:
    """Logits of student and teacher, labels, the objective's losses, and its context."""
    rng = np.random.default_rng(0)
    student, teacher, y = rng.normal(0, 2, (4, 3)), rng.normal(0, 2, (4, 3)), np.array([0, 2, 1, 1])
    ctx = Context(
        rng=torch.Generator(), spec=SPEC, models={"teacher": Fixed(torch.tensor(teacher, dtype=torch.float32))}
    )
    batch = Batch({"index": torch.arange(4), "x": torch.zeros(4, 5), "y": torch.tensor(y)})
    model = Fixed(torch.tensor(student, dtype=torch.float32))
    return student, teacher, y, Distillation(temperature=temperature, alpha=alpha).loss(model, batch, ctx), ctx


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.5), (4.0, 0.9), (20.0, 1.0), (3.0, 0.0)])
def test_it_is_the_weighted_average_of_two_cross_entropies(temperature: float, alpha: float) -> None:
    student, teacher, y, found, _ = case(temperature, alpha)
    p, q = softened(teacher, temperature), softened(student, temperature)
    soft = -(p * np.log(q)).sum(axis=1)
    own = -(p * np.log(p)).sum(axis=1)  # of the teacher: without a gradient, and left out
    hard = -np.log(softened(student, 1.0)[np.arange(4), y])
    expected = alpha * temperature**2 * (soft - own) + (1 - alpha) * hard
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_at_a_high_temperature_it_matches_logits() -> None:
    """The paper's equation 4: for logits of mean zero the gradient goes to (z_i - v_i) / (classes T^2)."""
    rng = torch.Generator().manual_seed(0)
    z, v = (torch.randn(6, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    z, v = z - z.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_loss(z, v, 1e4).sum(), z)
    torch.testing.assert_close(gradient, ((z - v) / 3).detach(), rtol=1e-3, atol=1e-4)


def test_it_is_zero_where_both_agree_and_learns_nothing_in_the_teacher() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(soft_loss(logits, logits, 2.5), torch.zeros(3))
    *_, found, ctx = case(2.0, 0.5)
    found.sum().backward()
    assert all(p.grad is None for p in ctx.models["teacher"].parameters())


def test_labels_may_be_probabilities() -> None:
    student, _, y, found, ctx = case(2.0, 0.3)
    soft = torch.eye(3)[torch.tensor(y)]
    batch = Batch({"index": torch.arange(4), "x": torch.zeros(4, 5), "y": soft})
    model = Fixed(torch.tensor(student, dtype=torch.float32))
    torch.testing.assert_close(Distillation(temperature=2.0, alpha=0.3).loss(model, batch, ctx), found)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, ["train.models", "distillation needs a teacher"]),
        ({"teacher": Fixed(torch.zeros(1, 7))}, ["train.models.teacher", "[7]", "[3]"]),
        ({"teacher": nn.Linear(9, 3)}, ["train.models.teacher", "[5]"]),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(models: dict[str, nn.Module], words: list[str]) -> None:
    split = Split({"x": np.zeros((2, 5), np.float32), "y": np.zeros(2, np.int64)})
    ctx = Context(rng=torch.Generator(), spec=SPEC, models=models)
    with pytest.raises(BadInput) as refusal:
        Distillation().init(nn.Linear(5, 3), Data(SPEC, {"train": split}), ctx)
    assert all(word in str(refusal.value) for word in words)
