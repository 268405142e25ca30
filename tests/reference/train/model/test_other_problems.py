"""U-Net, transformer and graph network: shapes, what can see what, and one pass written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadInput, Context, DataSpec, Model
from assay.plugins.train.model.gin import GIN, Aggregate
from assay.plugins.train.model.grid_detector import GridDetector
from assay.plugins.train.model.transformer import Transformer
from assay.plugins.train.model.unet import UNet

TOKENS = DataSpec(problem="sequence", modality="tokens", shape=(6,), classes=tuple("abcd"), high=(4.0,))


def build(model: Model, spec: DataSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    return model.build(spec, Context(rng=torch.Generator(), spec=spec)).eval()


def test_a_unet_keeps_the_size_and_sees_around_a_pixel() -> None:
    spec = DataSpec(problem="segmentation", shape=(2, 16, 32), classes=("a", "b", "c"))
    model = build(UNet(width=4, depth=2), spec)
    x = torch.rand(1, 2, 16, 32, requires_grad=True)
    out = model(x)
    assert out.shape == (1, 3, 16, 32)
    (gradient,) = torch.autograd.grad(out[0, 0, 8, 16], x)
    columns = gradient.abs().sum((0, 1)).nonzero()[:, 1]
    # Farther than the two 3 x 3 convolutions at full size would reach on each side of the way down and up.
    assert int(columns.max() - columns.min()) > 9
    with pytest.raises(BadInput, match="cannot be halved 2 times"):
        build(UNet(depth=2), DataSpec(problem="segmentation", shape=(1, 18, 16), classes=("a", "b")))


def test_no_token_sees_a_later_one() -> None:
    model = build(Transformer(dim=16, depth=2, heads=2), TOKENS)
    x = torch.randint(5, (3, 6))
    out = model(x)
    assert out.shape == (3, 6, 4)
    changed = x.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 5
    moved = (model(changed) - out).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [False, False, False, True, True, True]


def test_a_class_is_read_from_the_last_token() -> None:
    spec = TOKENS.model_copy(update={"problem": "classification"})
    model = build(Transformer(dim=16), spec)
    x = torch.randint(5, (3, 6))
    assert model(x).shape == (3, 4)
    assert torch.allclose(model(x), model.head(model.layers(x)[:, -1]))
    with pytest.raises(BadInput, match="takes tokens"):
        build(Transformer(), spec.model_copy(update={"modality": "image"}))


def test_a_round_of_messages_written_out() -> None:
    torch.manual_seed(0)
    layer = Aggregate(2, 3)
    with torch.no_grad():
        layer.eps.fill_(0.25)
    h = torch.rand(1, 3, 2)
    edges = torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]])
    present = torch.tensor([[[1.0], [1], [0]]])
    w1, b1, w2, b2 = (p.detach().numpy() for p in layer.mlp.parameters())
    found = layer(h, edges, present)[0].detach().numpy()
    for node, other in ((0, 1), (1, 0)):
        mixed = 1.25 * h[0, node].numpy() + h[0, other].numpy()
        hidden = np.maximum(w1 @ mixed + b1, 0)
        assert found[node] == pytest.approx(np.maximum(w2 @ hidden + b2, 0), abs=1e-6)
    assert not found[2].any()


def test_a_graph_is_what_its_nodes_are_in_any_order_and_however_much_is_filled_up() -> None:
    spec = DataSpec(problem="graph", modality="graph", shape=(5, 7), classes=("a", "b"))
    model = build(GIN(width=8, depth=2), spec)
    rng = np.random.default_rng(0)
    edges = np.triu(rng.integers(0, 2, (4, 4)), 1)
    edges = edges + edges.T

    def laid_out(order: np.ndarray, features: np.ndarray) -> torch.Tensor:
        x = np.zeros((1, 5, 7), np.float32)
        x[0, order[:, None], 2 + order[None]] = edges
        x[0, order, :2] = features
        return torch.from_numpy(x)

    features = rng.random((4, 2)).astype(np.float32) + 0.1
    first, second = laid_out(np.arange(4), features), laid_out(np.array([4, 2, 0, 1]), features)
    assert torch.allclose(model(first), model(second), atol=1e-6)
    with pytest.raises(BadInput, match="gin takes graphs"):
        build(GIN(), DataSpec(problem="graph", modality="graph", shape=(5, 5), classes=("a", "b")))


def test_a_detector_begins_without_detections() -> None:
    spec = DataSpec(problem="detection", shape=(1, 16, 24), classes=("a", "b", "c"))
    found = build(GridDetector(width=8), spec)(torch.rand(2, 1, 16, 24))
    assert found.shape == (2, 4 * 6, 6)
    assert found[..., 1].tolist()[0] == pytest.approx([0.01] * 24, rel=0.02)
    with pytest.raises(BadInput, match="4 divides"):
        build(GridDetector(), spec.model_copy(update={"shape": (1, 18, 24)}))
