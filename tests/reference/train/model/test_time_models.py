"""Networks of a time: the embedding by its formula, shapes and sizes, and that each part is used."""

from __future__ import annotations

import math

import pytest
import torch

from assay.plugins.contract import BadInput, Context, DataSpec
from assay.plugins.train.model._time import sinusoids
from assay.plugins.train.model.gan import GAN
from assay.plugins.train.model.time_mlp import TimeMLP
from assay.plugins.train.model.time_unet import TimeUNet


def context(spec: DataSpec) -> Context:
    return Context(rng=torch.Generator(), spec=spec)


def spec(*shape: int) -> DataSpec:
    return DataSpec(problem="generation", shape=shape)


def test_the_time_as_sines_and_cosines() -> None:
    found = sinusoids(torch.tensor([0.0, 0.25], dtype=torch.float64), 4)
    assert found[0].tolist() == [0, 0, 1, 1]
    slow = 1 / math.sqrt(10_000)
    expected = [math.sin(250), math.sin(250 * slow), math.cos(250), math.cos(250 * slow)]
    assert found[1].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 7, 13)])
def test_the_unet_keeps_the_images_shape(shape: tuple[int, ...]) -> None:
    model = TimeUNet(width=8, depth=2).build(spec(*shape), context(spec(*shape))).eval()
    x = torch.randn(2, *shape)
    times = [model(x, torch.full((2,), t)) for t in (0.0, 0.5)]
    assert times[0].shape == x.shape
    assert torch.equal(times[0], model(x))
    assert not torch.allclose(times[0], times[1])
    assert model.layers(x, torch.zeros(2)).shape == (2, 8, *shape[1:])


def test_the_unets_parameters_counted_by_hand() -> None:
    def block(a: int, b: int) -> int:
        convolutions = 9 * a * b + b + 9 * b * b + b + (a * b + b if a != b else 0)
        return convolutions + 2 * a + 2 * b + 8 * b + b

    model = TimeUNet(width=8, depth=2).build(spec(1, 8, 8), context(spec(1, 8, 8)))
    time, enter, head = 2 * (8 * 8 + 8), 9 * 8 + 8, 16 + 9 * 8 + 1
    down = block(8, 8) + block(8, 16) + block(16, 16)
    shrink = (9 * 8 * 8 + 8) + (9 * 16 * 16 + 16)
    up = block(16 + 16, 16) + block(16 + 8, 8)
    assert sum(p.numel() for p in model.parameters()) == time + enter + down + shrink + up + head


def test_what_came_down_a_level_is_seen_on_the_way_up() -> None:
    """With the lowest level silenced, the output still depends on the image."""
    model = TimeUNet(width=8, depth=1).build(spec(1, 8, 8), context(spec(1, 8, 8))).eval()
    with torch.no_grad():
        for parameter in model.layers.down[1].parameters():
            parameter.zero_()
        assert not torch.allclose(model(torch.zeros(1, 1, 8, 8)), model(torch.ones(1, 1, 8, 8)))


def test_the_mlp_by_hand() -> None:
    model = TimeMLP(width=5, depth=1, time_features=4).build(spec(2, 3), context(spec(2, 3)))
    x, t = torch.randn(4, 2, 3), torch.rand(4)
    both = torch.cat([x.reshape(4, 6), model.time(x, t)], dim=1)
    hidden = torch.nn.functional.silu(both @ model.layers[0].weight.T + model.layers[0].bias)
    torch.testing.assert_close(model(x, t), (hidden @ model.head.weight.T + model.head.bias).reshape(4, 2, 3))
    torch.testing.assert_close(model(x), model(x, torch.zeros(4)))


def test_the_gan_is_its_generator_and_its_critic_apart() -> None:
    model = GAN(width=5, depth=1).build(spec(1, 2, 3), context(spec(1, 2, 3)))
    noise = torch.randn(4, 1, 2, 3)
    hidden = (noise.flatten(1) @ model.layers[1].weight.T + model.layers[1].bias).relu()
    torch.testing.assert_close(model(noise), (hidden @ model.head.weight.T + model.head.bias).reshape(4, 1, 2, 3))
    assert model.critic(noise).shape == (4,)
    assert not {id(p) for p in model.critic.parameters()} & {id(p) for p in [*model.layers.parameters()]}


def test_vectors_are_no_images() -> None:
    with pytest.raises(BadInput, match="time_unet takes images"):
        TimeUNet().build(spec(5), context(spec(5)))
