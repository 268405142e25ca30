"""What several arounds need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block forward passes leave running statistics (and their counters) as they are; layers
    in training mode still normalise by their batch, as they do outside it."""
    tracking = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
    try:
        for module in tracking:
            module.track_running_stats = False  # type: ignore[assignment]
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]


@contextlib.contextmanager
def climbed(parameters: Sequence[nn.Parameter], grads: Sequence[Tensor | None], rho: float) -> Iterator[None]:
    """Inside the block the parameters are w + rho * g / ||g||, the norm over all of them; afterwards w
    again, bit for bit."""
    moved = [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]
    points = [p for p, _ in moved]
    saved = [p.detach().clone() for p in points]
    # The paper's code adds 1e-12 too: at an exact stationary point the step is then 0, not NaN.
    scale = rho / (torch.nn.utils.get_total_norm([g for _, g in moved]) + 1e-12)
    try:
        with torch.no_grad():
            for p, g in moved:
                p.add_(g * scale)
        yield
    finally:
        with torch.no_grad():
            for p, w in zip(points, saved, strict=True):
                p.copy_(w)
