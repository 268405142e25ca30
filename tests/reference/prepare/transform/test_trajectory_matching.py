"""The two walks against autograd in double precision, and two iterations of the learned examples by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Ask, BadInput, Context, Data, DataSpec, Record, Split, Trained
from assay.plugins.prepare.transform.trajectory_matching import (
    TrajectoryMatching,
    flat,
    loss_of,
    matching,
    some_of_each,
    student_batches,
)
from assay.plugins.problems.classification import Classification

INPUTS, HIDDEN, CLASSES, LR = 5, 4, 3, 0.3
SIZES = (INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES)


def by_hand(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy with probabilities `y` of two layers whose weights stand in one vector."""
    first, bias, second = weights.split(SIZES)
    logits = torch.tanh(x @ first.view(HIDDEN, INPUTS).T + bias) @ second.view(CLASSES, HIDDEN).T
    return -(y * logits.log_softmax(1)).sum(1).mean()


def unrolled(
    start: Tensor, target: Tensor, x: Tensor, y: Tensor, lr: Tensor, batches: Sequence[Tensor], whole: bool
) -> Tensor:
    """The matching loss in one graph: of the whole way, or with the student's weights detached at each step."""
    weights, total = start, torch.zeros_like(start)
    for at in batches:
        here = weights if whole else weights.detach()
        here = here.requires_grad_() if here.is_leaf else here
        (step,) = torch.autograd.grad(by_hand(here, x[at], y[at]), here, create_graph=True)
        total = total + step
        weights = weights - lr * step
    return (start - lr * total - target).square().sum() / (start - target).square().sum()


def problem(seed: int, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Start, target, six examples, their probabilities, and batches of two."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    start = draw(sum(SIZES))
    batches = [at for _ in range(steps) for at in torch.randperm(6, generator=rng).split(2)][:steps]
    return start, start + 0.3 * draw(sum(SIZES)), draw(6, INPUTS), draw(6, CLASSES).softmax(1), batches


def gradients(seed: int, steps: int, whole: bool) -> tuple[float, Tensor, float]:
    """Loss and its gradients in the examples and in the step's length, by autograd."""
    start, target, x, y, batches = problem(seed, steps)
    x.requires_grad_()
    lr = torch.tensor(LR, dtype=torch.float64, requires_grad=True)
    loss = unrolled(start, target, x, y, lr, batches, whole)
    by_x, by_lr = torch.autograd.grad(loss, [x, lr])
    return loss.item(), by_x, by_lr.item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_two_walks_are_autograd_with_the_students_weights_detached(seed: int, steps: int) -> None:
    start, target, x, y, batches = problem(seed, steps)
    value, by_x, by_lr = matching(by_hand, start, target, x, y, LR, batches)
    expected = gradients(seed, steps, whole=False)
    assert value == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(by_x, expected[1], rtol=1e-10, atol=1e-14)
    assert by_lr == pytest.approx(expected[2], rel=1e-10)


def test_it_is_not_the_whole_unrolled_gradient() -> None:
    """One step: the same. Later ones depend on examples through the weights too, which the method leaves out; the
    whole gradient is that of finite differences, the method's is not."""
    torch.testing.assert_close(gradients(0, 1, whole=False)[1], gradients(0, 1, whole=True)[1])
    for seed in range(3):
        (_, ours, _), (_, whole, _) = gradients(seed, 7, whole=False), gradients(seed, 7, whole=True)
        start, target, x, y, batches = problem(seed, 7)
        losses = []
        for shift in (1e-5, -1e-5):
            moved = x.clone()
            moved[2, 1] += shift
            losses.append(unrolled(start, target, moved, y, torch.tensor(LR), batches, True).item())
        assert float(whole[2, 1]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4)
        apart = float((ours - whole).norm() / whole.norm())
        assert 0.2 < apart < 1, apart
        # found: 0.30 to 0.86 of its length away, at a cosine of 0.95 to 0.97
        assert F.cosine_similarity(ours.flatten(), whole.flatten(), dim=0) > 0.9


def test_one_graph_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that autograd saves for a step are gone when the next step begins."""
    start, target, x, y, batches = problem(0, 6)
    alive: list[int] = []
    saved: list[int] = []

    class Held:
        def __init__(self, value: Tensor):
            self.value = value
            saved.append(1)

        def __del__(self) -> None:
            saved.pop()

    def watched(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        alive.append(len(saved))
        return by_hand(weights, x, y)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.value):
        matching(watched, start, target, x, y, LR, batches)
    assert len(alive) == 12
    assert max(alive[7:]) == alive[7]


# the learned examples

SPEC = DataSpec(modality="features", shape=(INPUTS,), classes=("a", "b", "c"))


class Net(nn.Module):
    """The network of `by_hand`, in single precision."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(INPUTS, HIDDEN)
        self.second = nn.Linear(HIDDEN, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class OneExpert:
    """A lab whose expert goes from one network to another in two epochs."""

    def __init__(self, data: Data):
        self.data, self.asked = data, []

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        self.asked = list(asks)
        kept = {f"epoch-{i:05d}": Net(i) for i in range(3)}
        return [Trained(kept["epoch-00002"], [], lambda n: copy.deepcopy(kept[n]), list(kept), self.data)]


def data(count: int = 1) -> Data:
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(3), count)
    splits = {
        name: Split({"x": rng.normal(size=(len(y), INPUTS)).astype(np.float32), "y": y}) for name in ("train", "test")
    }
    return Data(SPEC, {**splits, "train": splits["train"].replace(group=y)})


def fitted(given: Data, **fields: object) -> tuple[Record, OneExpert]:
    lab = OneExpert(given)
    method = TrajectoryMatching(**{"experts": 1, "start_epochs": 1, "expert_epochs": 2, **fields})
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC, seed=5)
    return method.fit(given, ctx, lab), lab  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", ["class", "expert"])
def test_two_iterations_by_hand(labels: str) -> None:
    given = data()
    found, lab = fitted(
        given, labels=labels, student_steps=4, iterations=2, image_lr=0.7, student_lr=LR, lr_lr=0.01, momentum=0.5
    )
    assert [(ask.changes, ask.seed) for ask in lab.asked] == [({"epochs": 2, "keep": [0, 1, 2]}, 5)]
    start, expert = (flat(Net(i)).double() for i in (0, 2))
    x, lr = torch.from_numpy(given.train.fields["x"]).double(), LR
    velocity, speed, losses = torch.zeros_like(x), 0.0, []
    for _ in range(2):
        y = torch.eye(3, dtype=torch.float64)
        if labels == "expert":
            first, bias, second = expert.split(SIZES)
            y = (torch.tanh(x @ first.view(HIDDEN, INPUTS).T + bias) @ second.view(CLASSES, HIDDEN).T).softmax(1)
        here, length = x.clone().requires_grad_(), torch.tensor(lr, dtype=torch.float64, requires_grad=True)
        loss = unrolled(start, expert, here, y, length, [torch.arange(3)] * 4, whole=False)
        by_x, by_lr = torch.autograd.grad(loss, [here, length])
        velocity, speed = 0.5 * velocity + by_x, 0.5 * speed + float(by_lr)
        x, lr = x - 0.7 * velocity, lr - 0.01 * speed
        losses.append(float(loss))
    np.testing.assert_allclose(found.tensors["x"].numpy(), x.numpy(), rtol=1e-4, atol=1e-5)
    assert found.values["lr"] == pytest.approx(lr, rel=1e-5)
    assert found.values["loss"] == pytest.approx(losses, rel=1e-4)
    if labels == "expert":
        np.testing.assert_allclose(found.tensors["y"].numpy(), y.numpy(), rtol=1e-4, atol=1e-5)
    else:
        assert found.tensors["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("labels", ["class", "expert"])
def test_only_the_training_split_is_replaced(labels: str) -> None:
    given = data(count=4)
    record, _ = fitted(given, labels=labels, per_class=2, student_batch=4, student_steps=2, iterations=1, image_lr=0.1)
    found = TrajectoryMatching().apply(given, record)
    Classification().check(found)
    assert found.splits["test"] is given.splits["test"]
    assert set(found.train.fields) == {"x", "y"}
    assert found.train.fields["x"].shape == (6, INPUTS)
    assert found.train.fields["y"].shape == ((6, 3) if labels == "expert" else (6,))
    alone = given.replace(splits={"new": given.test})
    assert TrajectoryMatching().apply(alone, record) is alone


def test_a_step_of_the_network_is_that_of_its_flat_weights() -> None:
    """`loss_of` and `flat` go through the parameters in one order; frozen ones stay."""
    net = Net(3)
    net.first.bias.requires_grad_(False)
    x, y = torch.randn(4, INPUTS), torch.tensor([0, 1, 2, 0])
    weights = flat(net).requires_grad_()
    assert len(weights) == SIZES[0] + SIZES[2]
    loss = loss_of(net)(weights, x, y)
    (found,) = torch.autograd.grad(loss, weights)
    expected = torch.autograd.grad(F.cross_entropy(net(x), y), [net.first.weight, net.second.weight])
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]))


def test_batches_and_first_examples() -> None:
    found = student_batches(5, 2, 8, torch.Generator().manual_seed(0))
    assert [len(at) for at in found] == [2, 2, 1, 2, 2, 1, 2, 2]
    for begin in (0, 3):
        assert sorted(torch.cat(found[begin : begin + 3]).tolist()) == list(range(5))
    y = np.array([1, 0, 1, 0, 2, 2, 1])
    chosen = some_of_each(y, 3, 2, torch.Generator().manual_seed(0))
    assert y[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(chosen.tolist())) == 6


def test_refusals() -> None:
    with pytest.raises(BadInput, match=r"per_class 3 .* class 0 has 2"):
        fitted(data(count=2), per_class=3, student_steps=1, iterations=1)
    with pytest.raises(BadInput, match=r"matching loss is .* at iteration 1:"):
        fitted(data(), student_steps=3, iterations=1, student_lr=1e38)
    soft = data().train.replace(y=np.eye(3, dtype=np.float32))
    with pytest.raises(BadInput, match="needs the class `y`"):
        fitted(Data(SPEC, {"train": soft}), student_steps=1, iterations=1)
