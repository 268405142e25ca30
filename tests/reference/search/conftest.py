"""A lab whose trainings are rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from torch import nn

from assay.plugins.contract import Ask, Data, DataSpec, Failed, Number, Result, Split, Trained

EMPTY = Split({"x": np.zeros((4, 2), np.float32), "y": np.zeros(4, np.int64)})


@dataclass
class TableLab:
    """`errors` maps the value of the path `cell` to a validation error, or to why its training fails; `scores` to
    the answers of evaluators, None where one cannot be asked."""

    errors: Mapping[Any, float | str]
    scores: Mapping[Any, Sequence[float | None]] = field(default_factory=dict)
    validation: bool = False
    asked: list[list[Any]] = field(default_factory=list)
    transforms: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)

    @property
    def data(self) -> Data:
        splits = {"train": EMPTY, **({"validation": EMPTY} if self.validation else {})}
        return Data(DataSpec(shape=(2,), modality="features", classes=("a", "b")), splits)

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]:
        self.asked.append([ask.changes["cell"] for ask in asks])
        self.transforms += [ask.transforms for ask in asks]
        return [self._trained(self.errors[ask.changes["cell"]]) for ask in asks]

    def _trained(self, error: float | str) -> Trained | Failed:
        if isinstance(error, str):
            return Failed(error)
        history = [{"epoch": 1, "validation_error": 1.0}, {"epoch": 2, "validation_error": error}]
        return Trained(nn.Identity(), history, lambda name: nn.Identity(), (), self.data)

    def measure(self, asks: Sequence[Ask], evaluators: Sequence[Any]) -> list[list[Result | Failed]]:
        assert all(ask.changes["epochs"] == 0 and ask.changes["keep"] == [0] for ask in asks)
        rows = [self.scores[ask.changes["cell"]] for ask in asks]
        return [[Failed("cannot be built") if s is None else Result({"score": Number(s)}) for s in row] for row in rows]


@pytest.fixture
def table_lab() -> Callable[..., TableLab]:
    """Makes such a lab."""
    return TableLab
