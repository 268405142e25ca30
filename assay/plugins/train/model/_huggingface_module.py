"""Networks of the library transformers as modules of Assay's: logits for inputs, children by their usual names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from assay.plugins.contract import BadInput
from assay.plugins.train.model._own import renamed, with_new_names


def configured(config: Mapping[str, Any], auto: Any, outputs: int | None, **own: Any) -> Any:
    """The library's config of an architecture for so many outputs. Raises BadInput where it refuses."""
    labels = {} if outputs is None else {"num_labels": outputs}
    try:
        made = AutoConfig.for_model(**{**config, **own, **labels})
    except Exception as error:  # each config checks itself in its own way
        raise BadInput(f"train.model.config: transformers refuses it: {type(error).__name__}: {error}") from error
    if type(made) not in auto._model_mapping:
        raise BadInput(f"train.model: transformers has no {auto.__name__} of model_type {config.get('model_type')!r}")
    return made


def new_network(config: Any, auto: Any) -> nn.Module:
    """A network with new weights, in float32, its attention written out so that it exports."""
    try:
        made = auto.from_config(config, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"train.model.config: transformers cannot build it: {type(error).__name__}: {error}") from error
    return cast(nn.Module, made)


class Through:
    """The head as the network's own code calls it: what it reads passes the child `features` first, so that features
    are a submodule's output and a tensor."""

    def __init__(self, network: nn.Module):
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = self.network.head(self.network.features(x))  # type: ignore[operator]
        return found


def body_and_head(network: nn.Module) -> dict[str, str]:
    """What the network itself calls `layers` and `head`. Raises BadInput where it is not made of one body and one
    head with weights."""
    assert isinstance(network, PreTrainedModel)
    body = network.base_model_prefix
    heads = [n for n, child in network.named_children() if n != body and any(True for _ in child.parameters())]
    if body not in dict(network.named_children()) or len(heads) != 1:
        parts = ", ".join(name for name, _ in network.named_children())
        raise BadInput(f"train.model: {type(network).__name__} has children {parts}; needed are one body and one head")
    return {"layers": body, "head": heads[0]}


def plain(network: nn.Module, forward: type) -> nn.Module:
    """The network with children `layers`, `features` (an identity that the head's inputs pass) and `head`, and the
    forward pass of the class `forward`: a tensor of logits for a tensor of inputs.

    Layers that transformers stores transposed become linear layers, which links know. Raises BadInput as
    `body_and_head`.
    """
    names = body_and_head(network)
    for name in [name for name, module in network.named_modules() if isinstance(module, Conv1D)]:
        network.set_submodule(name, _linear(cast(Conv1D, network.get_submodule(name))))
    renamed(network, names, "train.model")
    through = {}
    if names["head"] != "head":
        children = dict(network._modules)
        last = children.pop("head")
        network._modules = {**children, "features": nn.Identity(), "head": last}  # type: ignore[assignment]
        through = {names["head"]: property(Through)}
    network.__class__ = type(type(network).__name__, (forward, type(network)), through)
    return network


def _linear(layer: Conv1D) -> nn.Linear:
    """The linear layer that a transposed one is."""
    with torch.device("meta"):
        made = nn.Linear(layer.nx, layer.nf)
    made.weight, made.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias
    return made.train(layer.training)


class Asked(nn.Module):
    """A layer that notes whether somebody reads its weight."""

    def __init__(self, inner: nn.Module, name: str, asked: set[str]):
        super().__init__()
        self.inner, self.name, self.asked = inner, name, asked

    @property
    def weight(self) -> Tensor:
        self.asked.add(self.name)
        return next(self.inner.parameters())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found


class Held(nn.Module):
    """A layer whose weight (its type, mostly) the network's own code reads, whatever a link puts in its place."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> Tensor:
        return next(self.inner.parameters())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        return found


def tried(network: nn.Module, x: Tensor) -> Tensor:
    """The network's answer to two examples, in eval mode; each layer whose weight its own code read on the way is in a
    holder from then on. Raises BadInput where it cannot take them."""
    asked: set[str] = set()
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    training = network.training
    for name, layer in layers.items():
        network.set_submodule(name, Asked(layer, name, asked))
    try:
        with torch.no_grad():
            found: Tensor = network.eval()(x)
    except Exception as error:
        raise BadInput(
            f"train.model: {type(network).__name__} cannot take the data's examples, of shape {list(x.shape[1:])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        for name, layer in layers.items():
            network.set_submodule(name, Held(layer) if name in asked else layer)
        network.train(training)
    return found


def finished(network: nn.Module, forward: type, x: Tensor, expected: tuple[int, ...], **own: Any) -> nn.Module:
    """The module that Assay uses, with these attributes, tried on two examples `x`. Raises BadInput where it cannot
    take them or does not give `expected` for each."""
    module = plain(network, forward)
    for name, value in own.items():
        setattr(module, name, value)
    found = tuple(tried(module, x).shape[1:])
    if found != expected:
        raise BadInput(
            f"train.model: {type(module).__name__} gives {list(found)} for each example, not {list(expected)}"
        )
    return module


def loaded(given: Mapping[str, Tensor], config: Any, auto: Any, module: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's tensors by their names in the module that `finished` gave: transformers renames what older files
    call otherwise. What it misses is left out, what it does not know or has in another shape stays as given."""
    transformers_logging.disable_progress_bar()
    network, told = type(new_network(config, auto)).from_pretrained(  # type: ignore[attr-defined]
        None,
        config=config,
        state_dict=dict(given),
        attn_implementation="eager",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    names = body_and_head(network)
    held = [name for name, layer in module.named_modules() if isinstance(layer, Held)]
    odd = {name: torch.empty(0) for name in (*told["missing_keys"], *(row[0] for row in told["mismatched_keys"]))}
    gone = _inside(held, with_new_names(odd, names))
    shaped = {row[0]: given[row[0]] for row in told["mismatched_keys"] if row[0] in given}
    strange = {name: given[name] for name in told["unexpected_keys"] if name in given}
    known = _inside(held, plain(network, type(module).__bases__[0]).state_dict())
    state = {name: value for name, value in known.items() if name not in gone}
    return {**state, **_inside(held, with_new_names({**strange, **shaped}, names))}


def _inside(held: list[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names where some layers are inside holders."""
    found = dict(tensors)
    for layer in held:
        found = {
            f"{layer}.inner.{name.removeprefix(layer + '.')}" if name.startswith(layer + ".") else name: value
            for name, value in found.items()
        }
    return found
