"""Shwartz-Ziv and Tishby 2017: fitting, then compression, in the tanh network of 12 bits; with ReLU there is none."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import legval
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.dynamics.information_plane import InformationPlane

SIZES = (12, 10, 7, 5, 4, 3, 2)
SPEC = DataSpec(modality="features", shape=(12,), classes=("0", "1"))
SEEDS = 3
NETWORKS = 6
KEPT = (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 40, 60, 90, 130, 200, 300, 400, 500)
Weights = list[tuple[Tensor, Tensor]]


@functools.cache
def sphere() -> Data:
    """The paper's rule: 12 bits say which of 12 even points on the sphere (an icosahedron's corners) are there; the
    label depends, through a sigmoid so steep that I(X;Y) is 0.996 bits, on a number that no rotation changes (here
    the power of the pattern's spherical harmonics up to degree 6, which takes 64 values, as many as the paper has
    orbits). All 4096 patterns; 85 % are for training."""
    golden = (1 + 5**0.5) / 2
    corners = np.array([p for a in (-1, 1) for b in (-golden, golden) for p in ((0, a, b), (a, b, 0), (b, 0, a))])
    corners /= np.linalg.norm(corners[0])
    x = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.float64)
    power = np.einsum("ni,ij,nj->n", x, legval(np.clip(corners @ corners.T, -1, 1), np.ones(7)), x)
    levels = np.unique(power.round(6))
    assert len(levels) == 64
    threshold = min((levels[:-1] + levels[1:]) / 2, key=lambda t: abs((power > t).mean() - 0.5))
    rng = np.random.default_rng(0)
    y = (rng.random(4096) < 0.5 + 0.5 * np.tanh(30.5 / 2 * (power - threshold))).astype(np.int64)
    order = rng.permutation(4096)
    splits = {"train": order[:3481], "test": order[3481:]}
    return Data(SPEC, {k: Split({"x": x[at].astype(np.float32), "y": y[at]}) for k, at in splits.items()})


def initial(activation: str, rng: torch.Generator) -> Weights:
    """NETWORKS side by side, their weights as in the authors' code, or as is usual for ReLU."""

    def pair(a: int, b: int) -> tuple[Tensor, Tensor]:
        scale = b**-0.5 if activation == "tanh" else (2 / a) ** 0.5
        weight = nn.init.trunc_normal_(torch.empty(NETWORKS, a, b), 0, scale, -2 * scale, 2 * scale, rng)
        return nn.Parameter(weight), nn.Parameter(torch.zeros(NETWORKS, 1, b))

    return [pair(a, b) for a, b in itertools.pairwise(SIZES)]


def network(weights: Weights, activation: str, seed: int) -> nn.Module:
    """One of the networks as it is now."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    linears = []
    for i, (w, b) in enumerate(weights, 1):
        linears.append(nn.Linear(w.shape[1], w.shape[2]))
        linears[-1].load_state_dict({"weight": w[seed].detach().T.clone(), "bias": b[seed, 0].detach().clone()})
        if i < len(weights):
            layers |= {f"linear{i}": linears[-1], f"{activation}{i}": nn.Tanh() if activation == "tanh" else nn.ReLU()}
    return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=linears[-1])).eval()


@functools.cache
def trajectories(activation: str) -> list[list[tuple[str, nn.Module]]]:
    """The kept checkpoints of SEEDS networks that learned the rule, trained side by side on the same batches. (Layers
    as narrow as these can be dead with ReLU from the start; such a network says nothing about compression.)"""
    rng = torch.Generator().manual_seed(0)
    weights = initial(activation, rng)
    train = sphere().train.batch(slice(0, 3481))
    optimizer = torch.optim.Adam([p for pair in weights for p in pair], lr=2e-3, fused=True)
    found: list[list[tuple[str, nn.Module]]] = [[] for _ in range(NETWORKS)]
    for epoch in range(KEPT[-1] + 1):
        if epoch in KEPT:
            for i in range(NETWORKS):
                found[i].append((f"epoch-{epoch:05d}", network(weights, activation, i)))
        for index in torch.randperm(train.size, generator=rng).split(256):
            h = train.x[index].expand(NETWORKS, -1, -1)
            for w, b in weights[:-1]:
                h = torch.baddbmm(b, h, w)
                h = h.tanh() if activation == "tanh" else h.relu()
            output = torch.baddbmm(weights[-1][1], h, weights[-1][0])
            loss = NETWORKS * F.cross_entropy(output.flatten(0, 1), train.y[index].repeat(NETWORKS))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = [float((kept[-1][1](train.x).argmax(1) == train.y).float().mean()) for kept in found]
    learned = [kept for kept, share in zip(found, right) if share > 0.98]
    assert len(learned) >= SEEDS, right
    return learned[:SEEDS]


@functools.cache
def measured(activation: str) -> list[dict[str, np.ndarray]]:
    """The evaluator's arrays of each network."""
    found = []
    for kept in trajectories(activation):
        subject = Subject(
            kept[-1][1],
            lambda batch: batch.x,
            SPEC,
            {"main": sphere()},
            loss=lambda output, batch: F.cross_entropy(output, batch.y, reduction="none"),
            trajectory=lambda kept=kept: iter(kept),
        )
        ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
        found.append(dict(InformationPlane().evaluate(subject, ctx).arrays))
    return found


def fitted(arrays: dict[str, np.ndarray]) -> int:
    """The first kept checkpoint whose last hidden layer knows three quarters of the bit that the label is."""
    return int(np.argmax(arrays["bits_about_label"][:, 4] > 0.75))


@pytest.mark.claim
@pytest.mark.slow
def test_tanh_fits_and_then_compresses() -> None:
    for arrays in measured("tanh"):
        about_input, about_label, at = arrays["bits_about_input"], arrays["bits_about_label"], fitted(arrays)
        assert arrays["epoch"][at] <= 20  # most of the training is still to come
        assert about_label[0, 4] < 0.4
        assert (about_label[-1, 2:] > 0.98).all()
        assert about_input[at, 4] - about_input[0, 4] > -0.5  # until then nothing is lost
        assert (about_input[at, 3:5] - about_input[-1, 3:5] > 2.5).all()  # from then on the deeper layers lose most
        assert (np.abs(about_input[at, :3] - about_input[-1, :3]) < 0.5).all()  # and the first three next to nothing


@pytest.mark.claim
@pytest.mark.slow
def test_relu_fits_as_well_and_loses_nothing() -> None:
    """The deeper two layers together: tanh loses more than 7 bits, ReLU less than one or gains."""
    for arrays in measured("relu"):
        about_input, about_label, at = arrays["bits_about_input"], arrays["bits_about_label"], fitted(arrays)
        assert (about_label[-1] > 0.95).all()
        assert (about_input[at, 3:5] - about_input[-1, 3:5]).sum() < 1
    for arrays in measured("tanh"):
        about_input, at = arrays["bits_about_input"], fitted(arrays)
        assert (about_input[at, 3:5] - about_input[-1, 3:5]).sum() > 7


@pytest.mark.claim
@pytest.mark.slow
def test_the_gradient_drifts_while_tanh_fits_and_diffuses_while_it_compresses() -> None:
    """Geometric means over layers and checkpoints; with ReLU, where nothing is compressed, seeds differ."""
    for arrays in measured("tanh"):
        ratio, epoch = np.log(arrays["gradient_mean_to_std"]), arrays["epoch"]
        assert ratio[epoch < 20].mean() > 0
        assert ratio[epoch > 100].mean() < 0


@pytest.mark.claim
@pytest.mark.slow
def test_deeper_layers_know_no_more_where_all_share_their_bins() -> None:
    """The data-processing inequality is of the activations; bins keep it where layers have the same bounds, and break
    it where each has a range of its own: a layer can look empty and the next one not."""
    for arrays in measured("tanh"):
        for name in ("bits_about_input", "bits_about_label"):
            assert (np.diff(arrays[name], axis=1) < 0.02).all()
    assert max(np.diff(arrays["bits_about_input"], axis=1).max() for arrays in measured("relu")) > 0.5
