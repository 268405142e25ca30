"""A network of your own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, field_validator
from torch import Tensor, nn

from assay.plugins.contract import Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._own import call, check_outputs, find, renamed, with_new_names


class Module(Model):
    """A `torch.nn.Module` that a class or function of yours builds.

    The function is called with `arguments`, and with the data's description first where its first parameter is
    called `spec` (`spec.shape`, `spec.classes`, `spec.n_outputs`). One child computes the features, another one is
    the last layer. Code in the project's folder is part of the key: a changed file computes anew.
    """

    card = Card(title="A network of your own")
    target: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$",
        description="`package.module:function` or `package.module:Class`",
        examples=["assay.plugins.testing.own:Own"],
        json_schema_extra={"names": "code"},
    )
    arguments: dict[str, JsonValue] = Field({}, description="keyword arguments of the function or class")
    layers: str = Field("layers", min_length=1, description="child that computes the features", examples=["backbone"])
    head: str = Field("head", min_length=1, description="child that is the last layer", examples=["fc"])

    @field_validator("target")
    @classmethod
    def _findable(cls, value: str) -> str:
        find(value)
        return value

    def __hash__(self) -> int:
        return hash((self.target, json.dumps(self.arguments, sort_keys=True), self.layers, self.head))

    @property
    def names(self) -> Mapping[str, str]:
        """The names that Assay uses, and the children that have them."""
        return {"layers": self.layers, "head": self.head}

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """The network, its children called `layers` and `head`. Raises BadInput where it does not fit the data."""
        what = f"train.model.target: {self.target}"
        model = renamed(call(self.target, self.arguments, spec), self.names, "train.model")
        check_outputs(model, spec, what)
        return model

    def weights(self, given: Mapping[str, Tensor], spec: DataSpec) -> dict[str, Tensor]:
        """The tensors of your own checkpoint, by the names in the network that `build` gives."""
        return with_new_names(given, self.names)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Module) and self.model_dump() == other.model_dump()
