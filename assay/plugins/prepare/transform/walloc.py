"""WaLLoC: learned compression of images, of which models take the latents."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import BadInput, Card, Context, Data, DataSpec, Field, Record, Split, Transform
from assay.plugins.prepare.transform._common import draw_seed, model_units

LIFTS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
GAIN = 1.149604398860241
"""CDF 9/7 as four lifting steps and a gain, so that both bands have the scale of an orthonormal wavelet's."""
BATCH = 128
CHUNK = 1024


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high band, each (..., D / 2), of periodic signals (..., D) by one level of the CDF 9/7 wavelet."""
    low, high = x[..., 0::2], x[..., 1::2]
    for first, second in (LIFTS[:2], LIFTS[2:]):
        high = high + first * (low + low.roll(-1, -1))
        low = low + second * (high + high.roll(1, -1))
    return low * GAIN, high / GAIN


def whole(low: Tensor, high: Tensor) -> Tensor:
    """The signals (..., D) that `halves` takes apart."""
    low, high = low / GAIN, high * GAIN
    for first, second in (LIFTS[2:], LIFTS[:2]):
        low = low - second * (high + high.roll(1, -1))
        high = high - first * (low + low.roll(-1, -1))
    return torch.stack([low, high], dim=-1).flatten(-2)


def analyse(x: Tensor, levels: int) -> Tensor:
    """The wavelet packet transform: images (N, C, H, W) to (N, 4^levels C, H / 2^levels, W / 2^levels)."""
    for _ in range(levels):
        rows = halves(x)
        bands = [band.mT for half in rows for band in halves(half.mT)]
        x = torch.stack(bands, dim=2).flatten(1, 2)
    return x


def synthesise(x: Tensor, levels: int) -> Tensor:
    """The images that `analyse` takes apart."""
    for _ in range(levels):
        bands = x.unflatten(1, (-1, 4)).unbind(2)
        rows = [whole(a.mT, b.mT).mT for a, b in (bands[:2], bands[2:])]
        x = whole(*rows)
    return x


class Codec(nn.Module):
    """A linear encoder and a deeper decoder of wavelet packets, with a bottleneck of `bits` bits between them.

    The latents' unit is a quantum; the encoder's weights count in quarters of the range, so that it is used from
    the first step.
    """

    def __init__(self, bands: int, channels: int, hidden: int, bits: int):
        super().__init__()
        self.linear = nn.Conv2d(bands, channels, 1)
        layers = OrderedDict(
            first=nn.Conv2d(channels, hidden, 3, padding=1),
            act1=nn.GELU(),
            second=nn.Conv2d(hidden, hidden, 1),
            act2=nn.GELU(),
            last=nn.Conv2d(hidden, bands, 1),
        )
        self.decoder = nn.Sequential(layers)
        self.bits, self.quarter = bits, 2 ** (bits - 1) / 4

    def encoder(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that give latents in quanta."""
        assert self.linear.bias is not None
        return self.linear.weight * self.quarter, self.linear.bias * self.quarter

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to wavelet packets."""
        found: Tensor = self.decoder(latents / self.quarter)
        return found


def limited(bands: Tensor, weight: Tensor, bias: Tensor, bits: int) -> Tensor:
    """A linear map of each place's bands, within the range of `bits` bits."""
    limit = 2 ** (bits - 1) - 0.501
    return F.conv2d(bands, weight, bias).clamp(-limit, limit)


def fit_codec(
    images: np.ndarray, levels: int, channels: int, hidden: int, bits: int, steps: int, lr: float, seed: int
) -> Codec:
    """A codec trained on images (N, C, H, W) for the mean squared error of what it gives back."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = Codec(images.shape[1] * 4**levels, channels, hidden, bits)
    optimizer = torch.optim.Adam(codec.parameters(), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            at = torch.randint(len(images), (min(BATCH, len(images)),), generator=rng).numpy()
            x = torch.from_numpy(model_units(images[at]))
            bands = analyse(x, levels)
            latents = limited(bands, *codec.encoder(), bits)
            noise = torch.rand(latents.shape, generator=rng) - 0.5  # stands for rounding
            optimizer.zero_grad()
            (synthesise(codec.decode(latents + noise), levels) - x).square().mean().backward()
            optimizer.step()
    return codec


class WaLLoC(Transform):
    """Puts a learned code of few dimensions in the place of images: a wavelet packet transform (CDF 9/7,
    periodic), one linear layer on each place's bands, a limit and rounding; divided by 2^(bits - 1).

    The codec is trained on the training split with uniform noise for the rounding and a small convolutional
    decoder, which is then dropped: models take the latents. Left out of the paper: the entropy coder (which changes
    no latent), sound, and the codecs trained beforehand on large collections. Ground-truth masks are dropped, since
    they are of pixels.
    """

    card = Card(
        title="Learned Compression for Compressed Learning",
        paper="arxiv:2412.09405",
        claim="A classifier of the latents is more accurate than one of images with resolution reduced to as many "
        "dimensions.",
        verdict="reproduced",
        problems=("classification", "regression"),
        modality=("image",),
        serves=True,
    )
    levels: int = Field(
        2, ge=1, le=6, description="levels of the wavelet packet transform; 2^levels must divide the sides"
    )
    channels: int = Field(
        4, ge=1, le=4096, description="latent channels; the images' times 4^levels keep all dimensions"
    )
    bits: int = Field(8, ge=2, le=16, description="bits of a latent")
    hidden: int = Field(32, ge=1, le=1024, description="channels of the decoder that the encoder is trained with")
    steps: int = Field(400, ge=1, le=1_000_000, examples=[2], description="training steps of 128 images")
    lr: float = Field(5e-3, gt=0, description="learning rate of the codec's training (Adam)")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The encoder. Raises BadInput where the examples are no images, or their sides cannot be halved so often."""
        shape, side = data.spec.shape, 2**self.levels
        if data.spec.modality != "image" or len(shape) != 3 or shape[1] % side or shape[2] % side:
            raise BadInput(
                f"transform/walloc with {self.levels} levels needs images whose sides are multiples of {side}, "
                f"the examples are {data.spec.modality} of shape {list(shape)}"
            )
        images = np.asarray(data.train.fields["x"])
        codec = fit_codec(
            images, self.levels, self.channels, self.hidden, self.bits, self.steps, self.lr, draw_seed(ctx)
        )
        weight, bias = (values.detach() for values in codec.encoder())
        return Record(tensors={"weight": weight, "bias": bias})

    def apply(self, data: Data, record: Record) -> Data:
        """float32 latents (N, channels, H / 2^levels, W / 2^levels) in [-1, 1] in every split."""
        _, height, width = data.spec.shape
        shape = (self.channels, height // 2**self.levels, width // 2**self.levels)
        encoder = record.tensors["weight"], record.tensors["bias"]

        def change(name: str, split: Split) -> Split:
            x = split.fields["x"]
            done = np.empty((len(x), *shape), dtype=np.float32)
            for start in range(0, len(x), CHUNK):
                part = torch.from_numpy(model_units(np.asarray(x[start : start + CHUNK])))
                latents = limited(analyse(part, self.levels), *encoder, self.bits).round()
                done[start : start + CHUNK] = (latents / 2 ** (self.bits - 1)).numpy()
            return Split({**{k: v for k, v in split.fields.items() if k != "mask"}, "x": done})

        return data.map(change).replace(spec=self._spec(data.spec, shape))

    def _spec(self, spec: DataSpec, shape: tuple[int, ...]) -> DataSpec:
        bounds = {"low": (-1.0,), "high": (1.0,), "scale": (1.0,)}
        return spec.model_copy(update={"shape": shape, "modality": "latents", **bounds})
