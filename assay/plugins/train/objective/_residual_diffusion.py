"""The forward process of residual denoising diffusion, which training and sampling share.

A state lies between the clean image I_0 and the degraded one I_in: I_t = I_0 + a_t (I_in - I_0) + b_t eps, with
a_t from 0 to 1 and b_t from 0 to the last noise; t runs from 0 to STEPS.
"""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from assay.plugins.contract import BadInput, DataSpec

STEPS = 1000
"""The number of steps that t counts, the paper's."""


def share(t: Tensor) -> Tensor:
    """a_t, the sum of steps that fall linearly: alpha_i = 2 (T + 1 - i) / (T (T + 1)) for i up to t."""
    return t * (2 * STEPS + 1 - t) / (STEPS * (STEPS + 1))


def deviation(t: Tensor, last: float) -> Tensor:
    """b_t, from variances that rise linearly: beta_i^2 = last^2 2 i / (T (T + 1)), summed up to t."""
    return last * (t * (t + 1) / (STEPS * (STEPS + 1))).sqrt()


def pixel(spec: DataSpec, like: Tensor) -> Tensor:
    """The length of one pixel unit, to broadcast against images."""
    return like.new_tensor(list(spec.scale)).view(-1, 1, 1)


def demand_time(model: nn.Module, key: str) -> None:
    """Raises BadInput where a model does not take a state and a time beside the degraded image."""
    if not {"state", "t"} <= set(inspect.signature(model.forward).parameters):
        raise BadInput(
            f"{key}: rddm needs a network that takes `state` and `t` beside the image; train.model: rddm_unet does"
        )


def parts(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The residual and, where the network has twice the image's channels, the noise that it predicts."""
    channels = x.shape[1]
    return output[:, :channels], output[:, channels:] if output.shape[1] == 2 * channels else None
