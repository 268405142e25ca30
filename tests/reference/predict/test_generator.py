"""A generator's draws are its pass of each example's own noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec, NotAuditable
from assay.plugins.predict.generator import Generator


class Timed(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def test_draws_by_hand() -> None:
    ctx = Context(rng=torch.Generator(), spec=DataSpec(problem="generation", shape=(3,)), seed=4)
    batch = Batch({"index": torch.tensor([7, 2]), "x": torch.full((2, 3), 99.0)})
    layer = nn.Linear(3, 3)
    found = Generator().predict(layer, batch, ctx)
    noise = torch.stack([torch.randn(3, generator=ctx.generator(i)) for i in (7, 2)])
    torch.testing.assert_close(found, noise @ layer.weight.detach().T + layer.bias.detach())
    with pytest.raises(NotAuditable, match="one pass draws nothing"):
        Generator().predict(Timed(), batch, ctx)
