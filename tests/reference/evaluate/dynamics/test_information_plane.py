"""Bits against sums over counted joint frequencies, and the gradient's ratio against stacked gradients."""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, Data, DataSpec, NotAuditable, Result, Split, Subject
from assay.plugins.evaluate.dynamics.information_plane import (
    InformationPlane,
    entropy,
    information,
    layer_gradients,
    mean_to_std,
    patterns,
    stages,
)

SPEC = DataSpec(modality="features", shape=(2,), classes=("0", "1"))


def mutual(a: list, b: list) -> float:
    """Sum over pairs of p(a, b) log2 p(a, b) / (p(a) p(b)), by counting."""
    n, pa, pb = len(a), Counter(a), Counter(b)
    return sum(c / n * math.log2(c * n / (pa[u] * pb[v])) for (u, v), c in Counter(zip(a, b)).items())


def binned(values: np.ndarray, low: float, high: float, bins: int) -> list[tuple[int, ...]]:
    """Each row as a tuple of bins, found one value at a time."""
    edges = [low + (high - low) * i / bins for i in range(1, bins)]
    return [tuple(sum(value >= edge for edge in edges) for value in row) for row in values.tolist()]


def test_patterns_are_rows_of_bins() -> None:
    values = np.array([[-1.0, 0.99], [-0.94, 0.94], [-0.93, 0.94], [1.0, -2.0], [7.0, -1.0], [-1.0, 1.0]])
    # 30 bins over [-1, 1] are 1/15 wide: -1 and -0.94 share the first, -0.93 is in the second.
    found = patterns(values, -1.0, 1.0, 30)
    assert found[0] == found[1] == found[5]
    assert found[3] == found[4]  # values beyond the bounds go to the outermost bins
    assert len(set(found.tolist())) == 3
    assert len(set(patterns(np.full((4, 2), 0.3), 0.3, 0.3, 30).tolist())) == 1


def test_bits_are_those_of_counted_frequencies() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 12, 400)  # inputs that come more than once
    values = rng.normal(size=(12, 3))[inputs]
    y = (inputs + rng.integers(0, 2, 400)) % 3
    rows = binned(values, -2.0, 2.0, 4)
    about_input, about_label = information(patterns(values, -2.0, 2.0, 4), y)
    assert about_input == pytest.approx(mutual(inputs.tolist(), rows))
    assert about_label == pytest.approx(mutual(rows, y.tolist()))
    assert 0.1 < about_label < about_input < mutual(inputs.tolist(), inputs.tolist()) - 0.1
    assert entropy(np.array([0, 0, 1, 2])) == pytest.approx(1.5)


def test_what_holds_of_any_data() -> None:
    """I(T;Y) <= I(X;T) <= H(X), I(T;Y) <= I(X;Y), and what is a function of the bins knows no more than they."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = rng.normal(size=(300, 2)).round(1)
        y = (rng.random(300) < 1 / (1 + np.exp(-3 * x.sum(1)))).astype(np.int64)
        own = patterns(x, -9.0, 9.0, 10_000)  # as fine as the inputs are
        values = np.tanh(x @ rng.normal(size=(2, 3)))
        fine, coarse = (information(patterns(values, -1.0, 1.0, bins), y) for bins in (30, 10))
        for finer, coarser in itertools.pairwise([information(own, y), fine, coarse]):
            assert finer[0] >= coarser[0] - 1e-9
            assert finer[1] >= coarser[1] - 1e-9
        assert 0 <= fine[1] <= min(fine[0], entropy(y)) + 1e-9


def network(weight: Tensor, activation: nn.Module) -> nn.Module:
    """A hidden layer without biases, then a head that adds its units up against none."""
    model = nn.Sequential(
        OrderedDict(
            layers=nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=nn.Linear(2, len(weight)), act=activation)),
            head=nn.Linear(len(weight), 2),
        )
    )
    with torch.no_grad():
        model.layers.linear.weight.copy_(weight)
        model.layers.linear.bias.zero_()
        model.head.weight.copy_(torch.stack([torch.zeros(len(weight)), torch.ones(len(weight))]))
        model.head.bias.zero_()
    return model.eval()


def squared(output: Tensor, batch: Batch) -> Tensor:
    return (output - batch.y[:, None]).square().sum(1)


def ask(x: np.ndarray, y: np.ndarray, models: list[nn.Module], loss: object = squared, **params: int) -> Result:
    kept = [(f"epoch-{3 * i:05d}", model) for i, model in enumerate(models)]
    data = {"main": Data(SPEC, {"train": Split({"x": x.astype(np.float32), "y": y})})}
    subject = Subject(models[-1], lambda b: b.x, SPEC, data, loss=loss, trajectory=lambda: iter(kept))  # type: ignore[arg-type]
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC, batch_limit=7)
    return InformationPlane(**params).evaluate(subject, ctx)


def test_two_bits_and_their_exclusive_or() -> None:
    x = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]] * 5)
    y = (x[:, 0] != x[:, 1]).astype(np.int64)
    first = network(torch.tensor([[3.0, 0.0]]), nn.Tanh())  # one of the bits
    both = network(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), nn.Tanh())
    added = network(torch.tensor([[1.0, 1.0]]), nn.Tanh())  # -2, 0 or 2: 0 just where the label is 1
    for model, about_input, about_label in ((first, 1.0, 0.0), (both, 2.0, 1.0), (added, 1.5, 1.0)):
        found = ask(x, y, [first, model])
        assert found.arrays["layer"].tolist() == ["layers.act", "output"]
        assert found.arrays["epoch"].tolist() == [0, 3]
        assert found.arrays["bits_about_input"][1, 0] == pytest.approx(about_input)
        assert found.arrays["bits_about_label"][1, 0] == pytest.approx(about_label)
    # The head adds the bits up, and the sum is what the output knows.
    assert ask(x, y, [first, both]).arrays["bits_about_input"][1, 1] == pytest.approx(1.5)
    numbers = ask(x, y, [both, added]).numbers
    assert numbers["about_input"].value == pytest.approx(1.5)
    assert numbers["compression"].value == pytest.approx(0.5)
    assert numbers["compression"].unit == "bits"


def test_without_bounds_the_bins_span_what_is_seen_at_any_checkpoint() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    torch.manual_seed(0)
    small, large = torch.randn(3, 2), 6 * torch.randn(3, 2)
    values = [np.maximum(x @ w.numpy().T, 0) for w in (small, large)]
    found = ask(x, y, [network(small, nn.ReLU()), network(large, nn.ReLU())], bins=20)
    top = max(v.max() for v in values)
    for i, v in enumerate(values):
        rows = binned(v, 0.0, float(top), 20)
        assert found.arrays["bits_about_input"][i, 0] == pytest.approx(mutual(list(range(200)), rows))
        assert found.arrays["bits_about_label"][i, 0] == pytest.approx(mutual(rows, y.tolist()))
    assert found.arrays["bits_about_input"][0, 0] < found.arrays["bits_about_input"][1, 0] - 1


def test_the_ratio_is_that_of_stacked_gradients() -> None:
    rng = np.random.default_rng(3)
    stacks = [rng.normal(size=(6, 4)) + 1, rng.normal(size=(6, 2, 3)), np.ones((6, 2))]
    found = mean_to_std([[torch.tensor(s[i]) for s in stacks] for i in range(6)])
    for value, s in zip(found[:2], stacks):
        assert value == pytest.approx(np.linalg.norm(s.mean(0)) / np.linalg.norm(s.std(0)))
    assert np.isnan(found[2])  # no deviation at all


def test_gradients_by_layer_are_those_in_closed_form() -> None:
    """Of a linear network W x and head V of it: for the loss 1/2 |V W x|^2 they are V^T V W x x^T and V W x (W x)^T."""
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(layers=nn.Sequential(nn.Linear(2, 3, bias=False)), head=nn.Linear(3, 2, bias=False))
    )
    x = torch.randn(2)
    w, v = model.layers[0].weight.detach(), model.head.weight.detach()
    found = layer_gradients(model, 0.5 * model(x[None]).square().sum())
    assert torch.allclose(found[0], (v.T @ v @ w).matmul(torch.outer(x, x)).flatten(), atol=1e-6)
    assert torch.allclose(found[1], (v @ torch.outer(w @ x, w @ x)).flatten(), atol=1e-6)


def test_batches_are_whole_and_the_same_at_each_checkpoint() -> None:
    """With one example a batch the deviation is that of all examples' gradients, whatever their order."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(30, 2)).astype(np.float32), rng.integers(0, 2, 30)
    model = network(torch.tensor([[1.0, 0.5], [-0.3, 2.0], [0.7, -0.7]]), nn.Tanh())
    found = ask(x, y, [model, model], batch=1)
    rows = []
    for i in range(30):
        one = Batch({"index": torch.tensor([i]), "x": torch.tensor(x[i : i + 1]), "y": torch.tensor(y[i : i + 1])})
        loss = squared(model(one.x), one).mean()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.head.parameters())]).numpy())
    stacked = np.stack(rows)
    expected = np.linalg.norm(stacked.mean(0)) / np.linalg.norm(stacked.std(0))
    assert found.arrays["gradient_mean_to_std"][:, 1] == pytest.approx([expected, expected], rel=1e-4)
    wanted = np.nanmedian(found.arrays["gradient_mean_to_std"][0]) < 1
    assert (found.numbers["diffusion"].value == 0) == wanted


def test_what_cannot_be_asked() -> None:
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    model = network(torch.ones(1, 2), nn.Tanh())
    silent = ask(x, y, [model, model], loss=None)
    assert "gradient_mean_to_std" not in silent.arrays
    assert np.isnan(silent.numbers["diffusion"].value)
    with pytest.raises(NotAuditable, match="two kept checkpoints"):
        ask(x, y, [model])
    with pytest.raises(NotAuditable, match="no hidden layers"):
        ask(x, y, [nn.Linear(2, 2), nn.Linear(2, 2)])
    deep = nn.Sequential(OrderedDict(layers=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Tanh())))
    assert stages(deep) == [["layers.0"], ["layers.1", "layers.2"]]
