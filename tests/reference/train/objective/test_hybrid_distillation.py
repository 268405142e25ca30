"""Hybrid distillation by hand: networks run block by block on the tokens that are left, distances by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.plugins.train.model.mlp import MLP
from assay.plugins.train.model.vit import ViT
from assay.plugins.train.objective.hybrid_distillation import (
    HybridDistillation,
    counterpart,
    least_redundant,
    relation,
    stages,
)

SPEC = DataSpec(shape=(1, 8, 8), classes=("a", "b"))
HEADS = 2
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCH = Batch({"index": torch.arange(3), "x": X})
DATA = Data(SPEC, {"train": Split({"x": X.numpy(), "y": np.zeros(3, np.int64)})})


def vit(seed: int, dim: int = 8, depth: int = 3, patch: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    ctx = Context(rng=torch.Generator(), spec=SPEC)
    return ViT(patch=patch, dim=dim, depth=depth, heads=2, pool="mean").build(SPEC, ctx).eval()


def blocks(model: nn.Module) -> list[nn.Module]:
    return [layer for name, layer in model.get_submodule("layers").named_children() if name.startswith("block")]


def run(model: nn.Module, left: list[list[int]] | None) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Of the first image: the tokens that enter each block, the block's queries, keys and values, and the last
    tokens. `left` names the places in the image that go into each block."""
    layers = model.get_submodule("layers")
    tokens, places = layers.embed(X[:1])[0], list(range(17))
    entering, qkv = [], []
    for i, block in enumerate(blocks(model)):
        wanted = places if left is None else left[i]
        tokens = tokens[[places.index(place) for place in wanted]]
        places = wanted
        entering.append(tokens)
        qkv.append(block.attention.qkv(block.norm1(tokens)))
        tokens = block(tokens[None])[0]
    return entering, qkv, layers.norm(tokens)


def smooth(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def distance(a: Tensor, b: Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    return sum(smooth(one, other) for one, other in pairs) / len(pairs)


def related(a: Tensor, b: Tensor) -> Tensor:
    """Each head's product of each token of a with each of b, over sqrt(width), by loops."""
    width = a.shape[1] // HEADS
    found = torch.zeros(HEADS, len(a), len(b))
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        for i, one in enumerate(a):
            for j, other in enumerate(b):
                found[head, i, j] = float(one[part] @ other[part]) / math.sqrt(width)
    return found


def progressive(entering: list[Tensor], keep: float) -> list[list[int]]:
    """The places that go into each of three blocks: of the patches that came so far the share `keep` with the least
    mean cosine to the others, as the teacher sees them there."""
    left, found = list(range(17)), []
    for tokens in entering:
        mean = {}
        for i in left[1:]:
            cosines = [torch.cosine_similarity(tokens[i], tokens[j], dim=0) for j in left[1:] if j != i]
            mean[i] = float(sum(cosines)) / len(cosines)
        count = round(keep * (len(left) - 1))
        left = [0, *sorted(sorted(mean, key=lambda i: mean[i])[:count])]
        found.append(left)
    return found


@pytest.mark.parametrize(("keep", "sizes"), [(0.5, [9, 5, 3]), (1.0, [17, 17, 17])])
@torch.no_grad()
def test_by_hand(keep: float, sizes: list[int]) -> None:
    student, teacher, mim = vit(0), vit(1), vit(2)
    for model in (student, mim):  # attention is nearly even in a fresh network
        for block in blocks(model):
            block.attention.qkv.weight.mul_(4)
    ctx = Context(rng=torch.Generator(), spec=SPEC, models={"teacher": teacher, "mim_teacher": mim})
    method = HybridDistillation(alpha=2.0, beta=3.0, keep=keep, heads=HEADS)
    assert method.init(student, DATA, ctx) is None
    found = method.distances(student, BATCH, ctx)
    entering, _, target = run(teacher, None)
    left = progressive(entering, keep)
    assert [len(places) for places in left] == sizes
    _, own, last = run(student, left)
    _, theirs, _ = run(mim, None)
    queries_keys, values = [], []
    for i in (0, 1):  # all blocks but the last
        (q, k, v), (q_t, k_t, v_t) = own[i].chunk(3, dim=1), theirs[i][left[i]].chunk(3, dim=1)
        queries_keys.append(distance(related(q, k), related(q_t, k_t)))
        values.append(distance(related(v, v), related(v_t, v_t)))
    expected = [distance(last, target[left[-1]]), sum(queries_keys) / 2, sum(values) / 2]
    assert [float(one[0]) for one in found] == pytest.approx(expected, rel=1e-4)
    total = expected[0] + 2 * expected[1] + 3 * expected[2]
    assert float(method.loss(student, BATCH, ctx)[0]) == pytest.approx(total, rel=1e-4)


def test_relation_is_what_attention_is_the_softmax_of() -> None:
    block = blocks(vit(3))[0]
    seen: list[Tensor] = []
    block.attention.softmax.register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    block.attention(tokens)
    q, k, _ = block.attention.qkv(tokens).chunk(3, dim=2)
    torch.testing.assert_close(relation(q, k, 2).softmax(dim=3), seen[0])


def test_copies_go_first() -> None:
    tokens = torch.eye(4)[torch.tensor([0, 1, 1, 1, 2, 3])][None]  # three that are the same, and others
    assert least_redundant(tokens, 3).tolist() == [[0, 4, 5]]


def test_where_it_looks() -> None:
    assert [stages(depth) for depth in (1, 2, 3, 4, 12)] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 1, 2], [0, 4, 8]]
    assert [counterpart(i, 4, 4) for i in range(4)] == [0, 1, 2, 3]
    assert [counterpart(i, 2, 6) for i in range(2)] == [2, 5]
    assert [counterpart(i, 6, 2) for i in range(6)] == [0, 0, 0, 0, 1, 1]


def test_other_widths_and_depths_are_translated() -> None:
    student = vit(0, dim=8, depth=2)
    models = {"teacher": vit(1, dim=16, depth=4), "mim_teacher": vit(2, dim=32, depth=1)}
    ctx = Context(rng=torch.Generator(), spec=SPEC, models=models)
    method = HybridDistillation(heads=HEADS)
    ctx.own = method.init(student, DATA, ctx)
    assert isinstance(ctx.own, nn.Linear)
    assert (ctx.own.in_features, ctx.own.out_features) == (8, 16)
    losses = method.loss(student, BATCH, ctx)
    assert losses.shape == (3,)
    losses.sum().backward()
    assert ctx.own.weight.grad is not None
    assert all(p.grad is None for model in models.values() for p in model.parameters())


@pytest.mark.parametrize(
    ("models", "heads", "words"),
    [
        ({}, 2, ["train.models", "hybrid_distillation needs a teacher"]),
        ({"teacher": vit(1)}, 2, ["train.models", "hybrid_distillation needs a mim_teacher"]),
        ({"teacher": vit(1), "mim_teacher": vit(2, patch=4)}, 2, ["mim_teacher", "4 patches", "16", "`patch`"]),
        ({"teacher": vit(1), "mim_teacher": vit(2)}, 3, ["train.objective.heads", "3", "8", "train.model"]),
        (
            {
                "teacher": MLP(hidden=(4,)).build(SPEC, Context(rng=torch.Generator(), spec=SPEC)),
                "mim_teacher": vit(2),
            },
            2,
            ["train.models.teacher", "as vit has"],
        ),
    ],
)
def test_networks_that_do_not_go_together_are_refused(
    models: dict[str, nn.Module], heads: int, words: list[str]
) -> None:
    ctx = Context(rng=torch.Generator(), spec=SPEC, models=models)
    with pytest.raises(BadInput) as refusal:
        HybridDistillation(heads=heads).init(vit(0), DATA, ctx)
    assert all(word in str(refusal.value) for word in words), refusal.value
