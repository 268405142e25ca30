"""An image classifier of the library transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field
from assay.plugins.train.model._common import image_shape
from assay.plugins.train.model._huggingface import Huggingface, check_classes, file_of, read_config, read_json
from assay.plugins.train.model._huggingface_module import configured, finished, loaded, new_network

ALIKE = 1e-3
"""How far mean and deviation of pixels may be from those that the weights were trained with."""
TINY: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


class Logits:
    """The forward pass: images (N, C, H, W) to logits (N, classes)."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(pixel_values=x).logits  # type: ignore[misc]
        return found


def read_preprocessing(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`size`, `mean` and `std` (of pixels in [0, 1]) as preprocessor_config.json says; {} where it says nothing."""
    found: dict[str, Any] = {}
    cropped = raw.get("crop_size") if raw.get("do_center_crop") else None
    size = cropped or raw.get("size")
    if isinstance(size, int):
        found["size"] = (size, size)
    elif isinstance(size, Mapping) and ("height" in size or "shortest_edge" in size):
        edge = size.get("shortest_edge")
        found["size"] = (size.get("height", edge), size.get("width", edge))
    if raw.get("image_mean") and raw.get("do_normalize", True):
        # The library scales bytes by `rescale_factor` first: here pixels are bytes / 255.
        unit = 255.0 * raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else 255.0
        found["mean"] = tuple(value / unit for value in raw["image_mean"])
        found["std"] = tuple(value / unit for value in raw["image_std"])
    return found


class HuggingfaceImages(Huggingface):
    """An image classifier that transformers builds: ViT, ResNet, ConvNeXt, Swin, DeiT, … of a folder or hub id with
    config.json. Its number of channels and classes, and the images' size, are the data's.

    With `from: pretrained` the dense model is its model.safetensors. The size and normalisation of images
    (preprocessor_config.json) and the classes' names (id2label) are then checked against the data set. Pickled
    weights and code beside the config are never used.
    """

    card = Card(
        title="Image classifiers of the library transformers",
        problems=("classification",),
        modality=("image",),
        extra="huggingface",
        library="transformers",
    )
    config: dict[str, JsonValue] = Field(
        description="the architecture, as in config.json; read from `path` where it is not given", examples=[TINY]
    )
    size: tuple[int, int] | None = Field(
        None, description="height and width that the weights want; preprocessor_config.json's where it is not given"
    )
    mean: tuple[float, ...] = Field((), description="of pixels in [0, 1], one a channel; likewise")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field((), description="likewise")
    classes: tuple[str, ...] = Field((), description="the outputs' classes in order; the config's id2label likewise")

    __hash__ = Huggingface.__hash__

    @classmethod
    def read(cls, path: str, revision: str) -> dict[str, Any]:
        """Config, classes and preprocessing of a folder or hub id. Raises ValueError."""
        config, classes = read_config(path, revision)
        prepared = read_preprocessing(read_json(file_of(path, revision, "preprocessor_config.json")))
        return {"config": config, "classes": classes, **prepared}

    def configured(self, spec: DataSpec) -> Any:
        """The library's config, for the data's images and classes. Raises BadInput where a patch does not divide
        the images."""
        channels, height, width = image_shape(spec, "huggingface")
        made = configured(self.config, AutoModelForImageClassification, spec.n_outputs)
        if hasattr(made, "num_channels"):
            made.num_channels = channels
        if hasattr(made, "image_size"):
            made.image_size = height if height == width else [height, width]
        patch = getattr(made, "patch_size", 1)
        if isinstance(patch, int) and (height % patch or width % patch):
            raise BadInput(
                f"train.model.config: patch_size {patch} does not divide images of {height} x {width} pixels"
            )
        return made

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """A network with new weights. Raises BadInput where transformers cannot build it for these images."""
        network = new_network(self.configured(spec), AutoModelForImageClassification)
        return finished(network, Logits, torch.zeros(2, *spec.shape), (spec.n_outputs,))

    def weights(self, given: Mapping[str, Tensor], spec: DataSpec) -> Mapping[str, Tensor]:
        """The checkpoint's tensors. Raises BadInput where the data's images or classes are not those that the weights
        were trained on."""
        channels, *found = image_shape(spec, "huggingface")
        wanted = self.size or _pair(self.config.get("image_size"))
        if wanted and list(wanted) != found:
            raise BadInput(
                f"train.from: the weights want images of {wanted[0]} x {wanted[1]} pixels, the data set's have "
                f"{found[0]} x {found[1]}: give the source `size: {wanted[0]}`"
            )
        own = self.config.get("num_channels", len(self.mean) or channels)
        if own != channels:
            raise BadInput(f"train.from: the weights want {own} channels, the data set's images have {channels}")
        if self.mean:
            self._check_pixels(spec)
        check_classes(self.classes, spec)
        ctx = Context(rng=torch.Generator(), spec=spec)
        return loaded(given, self.configured(spec), AutoModelForImageClassification, self.build(spec, ctx))

    def _check_pixels(self, spec: DataSpec) -> None:
        """Raises BadInput where black and white are other numbers in the data than they were for the weights."""
        for bounds, pixel in ((spec.low, 0.0), (spec.high, 1.0)):
            has = bounds * len(self.mean) if len(bounds) == 1 else bounds
            wants = [(pixel - m) / s for m, s in zip(self.mean, self.std, strict=True)]
            if len(has) != len(wants) or any(abs(a - b) > ALIKE for a, b in zip(has, wants)):
                raise BadInput(
                    f"train.from: the weights were trained on images normalised by mean {list(self.mean)} and std "
                    f"{list(self.std)}, and the data set's are not: write {{name: transform/normalize, mean: "
                    f"{list(self.mean)}, std: {list(self.std)}}} under `prepare`, as its last step"
                )


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None
