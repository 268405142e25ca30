"""What methods of diffusion and flows share: networks of a time, noise schedules, draws, and the noised example.

Time is a number in [0, 1] an example. In a diffusion of T steps step i of 1..T has the time i / T, so that time 1
is noise; in a flow time 0 is noise and time 1 the data.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, takes_time

Kind = Literal["linear", "cosine"]
BLOCK = 16
"""torch draws normals on a CPU in blocks of so many."""


def require_time(model: nn.Module, method: str) -> None:
    """Raises BadInput where the network of `method` takes no time."""
    if not takes_time(model):
        raise BadInput(f"train.model: {method} needs a network of inputs and times, such as time_unet or time_mlp")


def betas(kind: Kind, steps: int) -> Tensor:
    """Variances beta_1..beta_T of a diffusion's steps, float64 (T,).

    linear: from 0.0001 to 0.02 at 1,000 steps (Ho et al. 2020), times 1,000 / T at others; cosine: those of
    alpha_bar(u) = cos^2(pi/2 (u + 0.008) / 1.008) (Nichol & Dhariwal 2021). None is above 0.999.
    """
    if kind == "linear":
        found = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)
    else:
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        level = torch.cos(torch.pi / 2 * (u + 0.008) / 1.008).square()
        found = 1 - level[1:] / level[:-1]
    return found.clamp_max(0.999)


def alpha_bars(kind: Kind, steps: int) -> Tensor:
    """The share of an example's variance that is left after each step, float64 (T,)."""
    return (1 - betas(kind, steps)).cumprod(0)


def spread(values: Tensor, like: Tensor) -> Tensor:
    """One value an example (N,), to multiply `like` (N, ...) with."""
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def noised(x: Tensor, noise: Tensor, bars: Tensor) -> Tensor:
    """sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise, with one alpha_bar an example."""
    return spread(bars.sqrt(), x) * x + spread((1 - bars).sqrt(), x) * noise


def noise_and_uniform(x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Standard normal noise in the shape of x, and numbers in [0, 1) (N,).

    An example's draws depend on its place in the batch, not on how many examples follow: each row of the noise
    is drawn in whole blocks.
    """
    other = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
    uniform = torch.rand(len(x), generator=other)
    width = x[0].numel()
    noise = torch.randn(len(x), -(-width // BLOCK) * BLOCK, generator=rng)[:, :width]
    return noise.reshape(x.shape).to(x), uniform.to(x.device)


def random_step(uniform: Tensor, steps: int) -> Tensor:
    """Steps 1..T (N,) from numbers in [0, 1)."""
    return (uniform.double() * steps).long().clamp_max(steps - 1) + 1
