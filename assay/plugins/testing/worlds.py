"""What the methods are tried on: tiny data, a tiny model, and all that a method may be given.

Everything is made here from seeds, so that the suite depends on no method, file or network. The worlds of
classification are here, those of another problem in `world_<problem>.py`; `makers` names them all.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.plugins.contract import (
    Batch,
    Data,
    DataSpec,
    Split,
)
from assay.plugins.testing.base import Case, Skipped

IMAGES = 8


class Exploded(Exception):
    """What a model whose fuse has burnt down raises in the middle of its forward pass."""


class Fused(nn.Module):
    """A network that calls `burn` between `layers` and `head`: with `fuse` n its n-th forward pass from then
    on raises Exploded there."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = 0

    def burn(self) -> None:
        """One pass less to go. Raises Exploded."""
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                raise Exploded("the suite's model raises here on purpose")


class TinyNet(Fused):
    """Two convolutions with normalisation, then a linear head."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, outputs)."""
        features = self.layers(x)
        self.burn()
        out: Tensor = self.head(self.pool(features).flatten(1))
        return out


@dataclass(frozen=True, eq=False)
class World:
    """A data set of one problem with a model trained on it.

    `target` and `score_of` are the problem's; `network` makes an untrained model with children `layers` and
    `head` (and a `fuse` as TinyNet has, where it can), `loss` is what it is trained on, (N,), at the
    learning rate `lr`.
    """

    name: str
    problem: str
    data: Data
    other: Data
    target: Callable[[Tensor], Tensor]
    score_of: Callable[[Tensor, Tensor], Tensor]
    network: Callable[[DataSpec], nn.Module]
    loss: Callable[[Tensor, Batch], Tensor]
    lr: float = 0.05

    def fresh(self, seed: int) -> nn.Module:
        """An untrained model in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network(self.data.spec).eval()

    def model(self, seed: int = 0) -> nn.Module:
        """A copy of the model trained from this seed, in eval mode."""
        return copy.deepcopy(trained(self.name, seed))

    def train_batch(self) -> Batch:
        """The first training examples."""
        return self.data.train.batch(slice(0, IMAGES))

    def images(self) -> Batch:
        """The audited test images with `target`, the dense model's prediction."""
        batch = self.data.test.batch(slice(0, IMAGES))
        with torch.no_grad():
            return batch.replace(target=self.target(trained(self.name, 0)(batch.x)))

    def score(self, prediction: Tensor, batch: Batch) -> Tensor:
        """What attributions explain."""
        return self.score_of(prediction, batch.target)


@functools.lru_cache(maxsize=32)
@torch.enable_grad()
def trained(world: str, seed: int) -> nn.Module:
    """The tiny model of a world after a few steps; shared, so copy it."""
    place = next(w for w in all_worlds() if w.name == world)
    model = place.fresh(seed)
    with torch.enable_grad():  # whoever asks first may be in a block without gradients
        train_steps(model, place, seed, steps=12)
    return model


def train_steps(model: nn.Module, world: World, seed: int, steps: int) -> None:
    """A plain loop over the training split, in place; leaves eval mode and no gradients."""
    model.train()
    data = world.data
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=world.lr, momentum=0.9)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = data.train.batch(torch.randperm(len(data.train), generator=rng)[:24].numpy())
        optimizer.zero_grad()
        world.loss(model(batch.x), batch).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()


# worlds by problem


def blobs(count: int, channels: int, seed: int, invert: bool = False) -> Split:
    """Images of 8 x 8 noisy pixels with a bright square whose place is the class; `mask` is the square, `group`
    one of two domains that do not differ."""
    rng = np.random.default_rng(seed)
    y = np.arange(count, dtype=np.int64) % 3
    x = rng.integers(0, 80, (count, channels, 8, 8)).astype(np.uint8)
    mask = np.zeros((count, 8, 8), dtype=bool)
    for i, label in enumerate(y):
        top, left = ((0, 0), (0, 5), (5, 2))[label]
        mask[i, top : top + 3, left : left + 3] = True
        x[i, :, mask[i]] += rng.integers(120, 170, (9, channels)).astype(np.uint8)
    domain = np.arange(count, dtype=np.int64) // 2 % 2
    return frozen(Split({"x": 255 - x if invert else x, "y": y, "mask": mask, "group": domain}))


def frozen(split: Split) -> Split:
    """The split with read-only arrays, as memory-mapped ones are."""
    for values in split.fields.values():
        values.setflags(write=False)
    return split


def gray_images() -> World:
    """One channel of bytes."""
    spec = DataSpec(shape=(1, 8, 8), classes=("a", "b", "c"))
    data, other = (
        Data(spec, {"train": blobs(48, 1, seed, invert), "test": blobs(24, 1, seed + 1, invert)})
        for seed, invert in ((0, False), (2, True))
    )
    return World("gray bytes", "classification", data, other, chosen, picked, tiny_net, entropy)


def colour_images() -> World:
    """Three channels of floats, each normalised in its own way."""
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.25, 0.2, 0.5])
    spec = DataSpec(
        shape=(3, 8, 8),
        classes=("a", "b", "c"),
        low=tuple(-mean / std),
        high=tuple((1 - mean) / std),
        scale=tuple(1 / std),
    )

    def normal(split: Split) -> Split:
        x = (split.fields["x"] / 255 - mean[:, None, None]) / std[:, None, None]
        return frozen(split.replace(x=x.astype(np.float32)))

    data, other = (
        Data(spec, {"train": normal(blobs(48, 3, seed, invert)), "test": normal(blobs(24, 3, seed + 1, invert))})
        for seed, invert in ((4, False), (6, True))
    )
    return World("normalised colour", "classification", data, other, chosen, picked, tiny_net, entropy)


def tiny_net(spec: DataSpec) -> nn.Module:
    """The network for images with classes."""
    return TinyNet(spec.shape[0], spec.n_outputs)


def entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy (N,)."""
    return F.cross_entropy(output, batch.y, reduction="none")


def chosen(prediction: Tensor) -> Tensor:
    """Each example's highest class."""
    return prediction.argmax(1)


def picked(prediction: Tensor, target: Tensor) -> Tensor:
    """Each example's value at its target."""
    return prediction.gather(1, target[:, None]).squeeze(1)


def makers() -> Mapping[str, Sequence[Callable[[], World]]]:
    """What there is to try a method on, by problem."""
    from assay.plugins.testing import (
        world_detection,
        world_field,
        world_generation,
        world_graph,
        world_regression,
        world_representation,
        world_restoration,
        world_segmentation,
        world_sequence,
    )

    return {
        "classification": (gray_images, colour_images),
        "field": (world_field.waves,),
        "regression": (world_regression.vectors,),
        "representation": (world_representation.embedded, world_representation.patches),
        "segmentation": (world_segmentation.maps,),
        "detection": (world_detection.squares,),
        "sequence": (world_sequence.tokens,),
        "graph": (world_graph.rings,),
        "restoration": (world_restoration.noisy_images,),
        "generation": (world_generation.images, world_generation.vectors),
    }


ANY = ("classification", "regression")
"""The problems that a method for `any` is tried on."""


@functools.cache
def all_worlds() -> list[World]:
    """Every world."""
    return [make() for several in makers().values() for make in several]


def worlds(case: Case) -> list[World]:
    """The worlds that a method's card allows. Raises Skipped where there is none."""
    problems = case.cls.card.problems
    found = [w for w in all_worlds() if w.problem in (ANY if "any" in problems else problems)]
    if not found:
        raise Skipped(f"the suite has no data for problem {' or '.join(problems)}")
    modality = case.cls.card.modality
    found = [w for w in found if "any" in modality or w.data.spec.modality in modality]
    if not found:
        raise Skipped(f"the suite has no data of modality {' or '.join(modality)}")
    return found
