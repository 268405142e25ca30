"""Two teachers of a vision transformer: one for its features, one for how its tokens relate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins._distillation import TokenTargets
from assay.plugins.contract import BadInput, Batch, Card, Context, Data, Objective, patch, tap
from assay.plugins.train.objective._common import asked, named_model
from assay.plugins.train.objective._tokens import EMBEDDED, blocks, take

STAGES = 3
"""How often tokens are dropped: before the first block, after a third and after two thirds of them."""


class Kept(NamedTuple):
    """Which tokens are left: their places (N, n) among those of the stage before, and in the whole image."""

    among: Tensor
    places: Tensor


def relation(a: Tensor, b: Tensor, heads: int) -> Tensor:
    """a b^T / sqrt(width of a head) of each head, (N, heads, T, T), for tokens (N, T, dim)."""
    n, tokens, dim = a.shape
    split_a, split_b = (t.reshape(n, tokens, heads, dim // heads).transpose(1, 2) for t in (a, b))
    return split_a @ split_b.transpose(2, 3) / (dim // heads) ** 0.5


def relations(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Queries with keys, and values with values, for queries, keys and values side by side (N, T, 3 dim)."""
    q, k, v = qkv.chunk(3, dim=2)
    return relation(q, k, heads), relation(v, v, heads)


def least_redundant(tokens: Tensor, count: int) -> Tensor:
    """The places (N, count), in order, of the tokens (N, n, dim) with the least mean cosine to the others."""
    unit = F.normalize(tokens, dim=2)
    alike = (unit @ unit.transpose(1, 2)).sum(dim=2)
    return alike.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values


def stages(depth: int) -> list[int]:
    """The blocks before which tokens are dropped, by number from 0."""
    return [stage * depth // STAGES for stage in range(STAGES)]


def thinned(seen: list[Tensor], keep: float) -> list[Kept]:
    """What is left after each stage, for all tokens of the teacher (N, 1 + patches, dim) that enter it: the share
    `keep` of the patches before it, the least redundant; the class token always."""
    first = torch.arange(seen[0].shape[1], device=seen[0].device).expand(len(seen[0]), -1)
    found = [Kept(first, first)]
    for tokens in seen:
        left = found[-1].places
        count = max(1, round(keep * (left.shape[1] - 1)))
        patches = least_redundant(take(tokens, left)[:, 1:], count) + 1
        among = torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)
        found.append(Kept(among, left.gather(1, among)))
    return found[1:]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean smooth L1 distance of each example (N,)."""
    return F.smooth_l1_loss(a, b, reduction="none").flatten(1).mean(dim=1)


def entrance(names: list[str], block: int) -> str:
    """The submodule whose output enters a block: the block before it, or the embedding."""
    return names[block - 1] if block else EMBEDDED


def counterpart(block: int, depth: int, teacher_depth: int) -> int:
    """The teacher's block that ends at the same share of its depth."""
    return max(0, round((block + 1) * teacher_depth / depth) - 1)


def take_each(places: list[Tensor], tokens: Tensor) -> Tensor:
    """The tokens that are left after several droppings in turn."""
    for at in places:
        tokens = take(tokens, at)
    return tokens


class HybridDistillation(TokenTargets, Objective):
    """Features of one teacher, relations between tokens of another, both by their smooth L1 distance: that of the
    last tokens from `teacher`'s, plus alpha times that of Q K^T and beta times that of V V^T, each over
    sqrt(width), from `mim_teacher`'s, the mean over all blocks but the last. Labels and the model's head take no part.

    The student sees ever fewer tokens: before its first block, after a third and after two thirds of its blocks
    only the share `keep` of the patches goes on, those least like the others to the teacher (by cosine). Where the
    student's width is not the teacher's, a linear layer of its own translates; where depths differ, blocks at the
    same share of the depth are compared. All three networks must be vision transformers on the same patches.

    The authors published no code. How redundancy is measured, which blocks are compared and by which distance their
    relations are, is this implementation's reading of the paper.
    """

    card = Card(
        title="Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners",
        paper="arxiv:2306.15876",
        problems=("classification", "representation"),
        modality=("image",),
        needs=("activations",),
        roles=("teacher", "mim_teacher"),
    )

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module | None:
        """The layer that translates, where one is needed. Raises BadInput where the networks do not go together."""
        networks = {"train.model": model}
        networks |= {f"train.models.{r}": named_model(ctx, r, "hybrid_distillation") for r in self.card.roles}
        x = data.train.batch([0]).x.to(next(model.parameters()).device)
        shapes = {}
        for whose, network in networks.items():
            blocks(network, "hybrid_distillation", whose)
            shapes[whose] = asked(network, x, whose, ("layers",))[1]["layers"].shape
            tokens, width = shapes[whose][1:]
            if tokens != shapes["train.model"][1]:
                raise BadInput(
                    f"{whose}: it has {tokens - 1} patches, train.model {shapes['train.model'][1] - 1}; give both the "
                    "same `patch`"
                )
            if whose != "train.models.teacher" and width % self.heads:
                raise BadInput(f"train.objective.heads: {self.heads} does not divide {width}, the width of {whose}")
        width, wanted = shapes["train.model"][2], shapes["train.models.teacher"][2]
        return nn.Linear(width, wanted) if width != wanted else None

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each image (N,)."""
        features, queries_keys, values = self.distances(model, batch, ctx)
        return features + self.alpha * queries_keys + self.beta * values

    def distances(self, model: nn.Module, batch: Batch, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Of the features, the relations of queries and keys, and those among values, (N,) each."""
        names = blocks(model, "hybrid_distillation", "train.model")
        kept, wanted = self.guide(ctx.models["teacher"], batch)
        drops: dict[str, list[Tensor]] = {}
        for block, left in zip(stages(len(names)), kept):
            drops.setdefault(entrance(names, block), []).append(left.among)
        changes: Mapping[str, Callable[[Tensor], Tensor]] = {n: partial(take_each, at) for n, at in drops.items()}
        related = names[:-1] or names
        taps = [f"{name}.attention.qkv" for name in related]
        with patch(model, changes), tap(model, (*taps, "layers")) as seen:
            model(batch.x)
        found = seen["layers"].float() if ctx.own is None else ctx.own(seen["layers"]).float()
        others = self.mim_relations(ctx.models["mim_teacher"], batch, len(names))
        apart = []
        for block, name in enumerate(taps):
            left = [k for k, first in zip(kept, stages(len(names))) if first <= block][-1]
            own = relations(seen[name].float(), self.heads)
            theirs = relations(take(others[block], left.places), self.heads)
            apart.append([distance(a, b) for a, b in zip(own, theirs)])
        queries_keys, values = (torch.stack(each).mean(dim=0) for each in zip(*apart))
        return distance(found, take(wanted, kept[-1].places)), queries_keys, values

    def guide(self, teacher: nn.Module, batch: Batch) -> tuple[list[Kept], Tensor]:
        """Which tokens are left at each stage, and the teacher's last tokens (N, 1 + patches, dim)."""
        names = blocks(teacher, "hybrid_distillation", "train.models.teacher")
        places = [entrance(names, block) for block in stages(len(names))]
        with torch.no_grad(), tap(teacher, (*dict.fromkeys(places), "layers")) as seen:
            teacher(batch.x)
        return thinned([seen[place].float() for place in places], self.keep), seen["layers"].float()

    def mim_relations(self, teacher: nn.Module, batch: Batch, depth: int) -> list[Tensor]:
        """The queries, keys and values of the block that goes with each of the student's, (N, T, 3 dim)."""
        names = blocks(teacher, "hybrid_distillation", "train.models.mim_teacher")
        taps = [f"{names[counterpart(block, depth, len(names))]}.attention.qkv" for block in range(depth)]
        with torch.no_grad(), tap(teacher, tuple(dict.fromkeys(taps))) as seen:
            teacher(batch.x)
        return [seen[name].float() for name in taps]
