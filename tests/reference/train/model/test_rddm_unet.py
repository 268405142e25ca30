"""What the network is given reaches what it predicts."""

from __future__ import annotations

import math

import pytest
import torch

from assay.plugins.contract import BadInput, Context, DataSpec
from assay.plugins.train.model.rddm_unet import RDDMUNet, time_features

SPEC = DataSpec(problem="restoration", shape=(2, 8, 6))
CTX = Context(rng=torch.Generator(), spec=SPEC)


def test_time_features_written_out() -> None:
    found = time_features(torch.tensor([0.0, 0.25]), 4)
    expected = [[0, 0, 1, 1], [math.sin(250), math.sin(2.5), math.cos(250), math.cos(2.5)]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [False, True])
def test_image_state_and_time_all_matter(noise: bool) -> None:
    torch.manual_seed(0)
    model = RDDMUNet(noise=noise).build(SPEC, CTX)
    x, state = torch.rand(2, 3, 2, 8, 6)
    t = torch.tensor([0.1, 0.5, 0.9])
    out = model(x, state=state, t=t)
    assert out.shape == (3, 4 if noise else 2, 8, 6)
    for other in (model(x + 0.1, state=state, t=t), model(x, state=state + 0.1, t=t), model(x, state=state, t=t / 2)):
        assert (other != out).flatten(1).any(1).all()


def test_its_own_pass_is_one_step_from_the_last_time() -> None:
    torch.manual_seed(0)
    model, x = RDDMUNet(noise=True).build(SPEC, CTX), torch.rand(3, 2, 8, 6)
    residual = model(x, state=x, t=torch.ones(3))[:, :2]
    torch.testing.assert_close(model(x), x - residual)


def test_odd_sides_are_refused() -> None:
    with pytest.raises(BadInput, match="8 x 7"):
        RDDMUNet().build(DataSpec(problem="restoration", shape=(1, 8, 7)), CTX)
