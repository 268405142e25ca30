"""A language model of the library transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field
from assay.plugins.train.model._huggingface import Huggingface, check_classes, read_config
from assay.plugins.train.model._huggingface_module import configured, finished, loaded, new_network

NO_PADDING = -1
"""The number of no token: every place of an example counts."""
TINY: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 16,
    "n_positions": 16,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}


class NextToken:
    """The forward pass of a causal model: tokens (N, T) to logits (N, T, tokens), of as many tokens as the data set
    has."""

    tokens: int

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.ones_like(x)
        found: Tensor = super().forward(input_ids=x, attention_mask=seen, use_cache=False).logits  # type: ignore[misc]
        return found[..., : self.tokens]


class OfSequence:
    """The forward pass of a classifier: tokens (N, T) to logits (N, classes); padding is not looked at."""

    padding: int

    def forward(self, x: Tensor) -> Tensor:
        seen = (x != self.padding).long()
        found: Tensor = super().forward(input_ids=x, attention_mask=seen).logits  # type: ignore[misc]
        return found


class HuggingfaceText(Huggingface):
    """A language model that transformers builds, of a folder or hub id with config.json. For a data set of problem
    `sequence` it is a causal model (GPT-2, Llama, …) that predicts each place's next token; for `classification` of
    tokens it has a head for classes (BERT, …).

    With `from: pretrained` the dense model is its model.safetensors. The data's tokens must be those of the model's
    own tokenizer. Pickled weights and code beside the config are never used.
    """

    card = Card(
        title="Language models of the library transformers",
        problems=("sequence", "classification"),
        modality=("tokens",),
        extra="huggingface",
        library="transformers",
    )
    config: dict[str, JsonValue] = Field(
        description="the architecture, as in config.json; read from `path` where it is not given", examples=[TINY]
    )
    classes: tuple[str, ...] = Field((), description="the outputs' classes in order; the config's id2label likewise")

    __hash__ = Huggingface.__hash__

    @classmethod
    def read(cls, path: str, revision: str) -> dict[str, Any]:
        """Config and classes of a folder or hub id. Raises ValueError."""
        config, classes = read_config(path, revision)
        return {"config": config, "classes": classes}

    def _parts(self, spec: DataSpec) -> tuple[Any, Any]:
        """Config and kind of model for the data's problem. Raises BadInput where the examples are no
        tokens, or more or longer ones than the model has."""
        if spec.modality != "tokens":
            raise BadInput(f"train.model: huggingface_text takes tokens, the examples are {spec.modality}")
        sequence = spec.problem == "sequence"
        auto = AutoModelForCausalLM if sequence else AutoModelForSequenceClassification
        config = configured(self.config, auto, None if sequence else spec.n_outputs)
        needed = max(int(spec.high[0]) + 1, spec.n_outputs if sequence else 0)
        if config.vocab_size < needed:
            raise BadInput(f"train.model.config: vocab_size is {config.vocab_size}, the data set has {needed} tokens")
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and longest < spec.shape[0]:
            raise BadInput(f"train.model.config: the model takes {longest} tokens, an example has {spec.shape[0]}")
        return config, auto

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """A network with new weights. Raises BadInput where transformers cannot build it for these tokens."""
        config, auto = self._parts(spec)
        x = torch.zeros(2, *spec.shape, dtype=torch.int64)
        if spec.problem == "sequence":
            expected = (*spec.shape, spec.n_outputs)
            return finished(new_network(config, auto), NextToken, x, expected, tokens=spec.n_outputs)
        network: Any = new_network(config, auto)
        padding = NO_PADDING if config.pad_token_id is None else config.pad_token_id
        network.config.pad_token_id = padding  # without one the library refuses batches
        return finished(network, OfSequence, x, (spec.n_outputs,), padding=padding)

    def weights(self, given: Mapping[str, Tensor], spec: DataSpec) -> Mapping[str, Tensor]:
        """The checkpoint's tensors. Raises BadInput where its classes are not the data set's."""
        if spec.problem == "classification":
            check_classes(self.classes, spec)
        ctx = Context(rng=torch.Generator(), spec=spec)
        return loaded(given, *self._parts(spec), self.build(spec, ctx))
