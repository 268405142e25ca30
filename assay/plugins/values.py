"""The values that pass between the frame and the methods: batches, data sets, records, results."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

Over = Literal["input", "units", "pairs", "images"]


class AssayError(Exception):
    """A fault that ends a command with one message for people; `code` is the exit code."""

    code = 1


class BadInput(AssayError):
    """What the user gave is wrong: the message names the key, the value and what would be right."""

    code = 2


class BadData(BadInput):
    """The data are wrong (NaN pixels, mixed sizes, labels out of range, ...)."""


class NotAuditable(Exception):
    """A question that cannot be asked of this model; the text is the reason shown in the report."""


class DataSpec(BaseModel):
    """What a model must know of its data.

    `shape` is one example's shape: (C, H, W) for images, (T,) for tokens, (V, F + V) for graphs of at most V
    nodes (each node's features, then its row of the adjacency matrix; a row of zeros is no node). `low`,
    `high` are a valid pixel's (or token's) bounds and `scale` the length of one pixel unit ([0, 1] before
    normalisation), each per channel and in the units that the model sees, so that a robustness budget in
    pixel units is `eps * scale`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: str = "classification"
    modality: str = "image"
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    outputs: int = 0
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (1.0,)
    scale: tuple[float, ...] = (1.0,)

    @property
    def blank(self) -> tuple[float, ...]:
        """The value, per channel, of an input that shows nothing: black in an image, else zero."""
        return self.low if self.modality == "image" else (0.0,)

    @property
    def valid(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and highest values, per channel, that an input may take: an image's pixels have bounds,
        features have none (`low` and `high` are those of the training split)."""
        return (self.low, self.high) if self.modality == "image" else ((-math.inf,), (math.inf,))

    @property
    def n_outputs(self) -> int:
        """Number of the model's outputs: one per class, or `outputs` where there are no classes."""
        return self.outputs or len(self.classes)

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """The type of the numbers that a model takes: whole ones for tokens."""
        return "int64" if self.modality == "tokens" else "float32"


class Batch(Mapping[str, Tensor]):
    """An open, immutable mapping of named tensors with a common first dimension.

    Always holds `index` (the examples' numbers in their split) and `x`; a problem adds `y`, `mask`, ...
    Fields read as attributes: `batch.x`.
    """

    _fields: Mapping[str, Tensor]

    def __init__(self, fields: Mapping[str, Tensor]):
        object.__setattr__(self, "_fields", MappingProxyType(dict(fields)))

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(f"the batch has no field '{name}', only {sorted(self._fields)}") from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a batch is immutable; use batch.replace(field=tensor)")

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    @property
    def size(self) -> int:
        """Number of examples."""
        return self._fields["x"].shape[0]

    def replace(self, **fields: Tensor) -> Batch:
        """A new batch with these fields set."""
        return Batch({**self._fields, **fields})

    def take(self, which: Tensor | slice) -> Batch:
        """The examples at positions `which` of every field."""
        return Batch({k: v[which] for k, v in self._fields.items()})

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        # To the CPU nobody would wait: values could be read before they are there.
        ahead = torch.device(device).type != "cpu"
        return Batch({k: v.to(device, non_blocking=ahead) for k, v in self._fields.items()})


@dataclass(frozen=True)
class Split:
    """One split of a data set: named arrays with a common first dimension.

    `x` is uint8 (images, 0..255) or float32 in the units that the model sees. `batch` gives tensors;
    uint8 becomes float32 in [0, 1].
    """

    fields: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.fields["x"])

    def batch(self, index: Tensor | np.ndarray | Sequence[int] | slice) -> Batch:
        """The examples numbered `index`, as tensors on the CPU."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        at = np.asarray(index)
        tensors = {name: to_tensor(values[at], name) for name, values in self.fields.items()}
        return Batch({"index": torch.as_tensor(at, dtype=torch.int64), **tensors})

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, min(start + size, len(self))))

    def take(self, index: np.ndarray) -> Split:
        """The examples at `index`, in that order."""
        return Split({name: np.asarray(values[index]) for name, values in self.fields.items()})

    def replace(self, **fields: np.ndarray) -> Split:
        """A new split with these fields set."""
        return Split({**self.fields, **fields})


def to_tensor(values: np.ndarray, name: str = "x") -> Tensor:
    """A copy as a tensor: integers as int64, floats as float32; uint8 of a field whose name begins with
    `x` is an image and becomes float32 in [0, 1]."""
    array = np.ascontiguousarray(values)
    if array.dtype == np.uint8 and name.startswith("x"):
        return torch.from_numpy(array.astype(np.float32)).div_(255.0)
    kind = {"i": np.int64, "u": np.int64, "b": np.bool_}.get(array.dtype.kind, np.float32)
    return torch.from_numpy(array.astype(kind))


@dataclass(frozen=True)
class Data:
    """A data set: its description, its splits (`train`, `test`, ...) and fields not per example."""

    spec: DataSpec
    splits: Mapping[str, Split]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def test(self) -> Split:
        """The test split."""
        return self.splits["test"]

    def replace(self, **changes: Any) -> Data:
        """A new data set with these attributes set."""
        return replace(self, **changes)

    def map(self, change: Callable[[str, Split], Split]) -> Data:
        """A new data set with `change(name, split)` in place of each split."""
        return replace(self, splits={name: change(name, split) for name, split in self.splits.items()})


@dataclass(frozen=True)
class Record:
    """What a `fit` decided: JSON values and tensors, enough to `apply` it again elsewhere.

    `weights` is a whole new state dict (of a link that trains); the frame loads it into the model
    after `apply` and keeps it only in the model artifact, never in the record.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Number:
    """One measured number.

    `direction` is +1 where more is better, -1 where less is, 0 where neither. `each`, where the
    number is a mean over examples, holds one value an example, in the order of the examples, so
    that differences between models get a paired interval.
    """

    value: float
    unit: str = ""
    direction: Literal[-1, 0, 1] = 0
    definition: str = ""
    each: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """An evaluator's or audit's answer: named numbers, the first being the headline, and arrays."""

    numbers: Mapping[str, Number]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Attribution:
    """Attribution values: `over="input"` has shape (N, H, W) for images, (N, *shape) otherwise."""

    values: Tensor
    over: Over = "input"


class Scorer(Protocol):
    """What an attribution explains: predictions of a batch to one differentiable number an example."""

    def __call__(self, prediction: Tensor, batch: Batch) -> Tensor: ...


@dataclass
class Context:
    """What a method may use beside its arguments.

    `rng` is a CPU generator seeded from the section's seed and the method's name; `own` the module
    that the method's `init` made; `models` named frozen models (teacher, guide, judge); `taps` names the
    submodules that any term of the step reads; `shared` is emptied by the frame before each gradient
    evaluation.
    """

    rng: torch.Generator
    spec: DataSpec
    seed: int = 0
    step: int = 0
    progress: float = 0.0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    own: nn.Module | None = None
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    folder: Path | None = None
    batch_limit: int = 256
    taps: tuple[str, ...] = ()
    shared: dict[tuple[int, int], tuple[Tensor, dict[str, Tensor]]] = field(default_factory=dict)

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """`model(batch.x)`, computed once for the terms of one gradient evaluation."""
        return self._pass(model, batch, ())[0]

    def activations(self, model: nn.Module, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the named submodules in the pass of `forward`: of the very same pass where the term
        says in `reads` that it wants them, else of one more."""
        seen = self._pass(model, batch, tuple(names))[1]
        return {name: seen[name] for name in names}

    def _pass(self, model: nn.Module, batch: Batch, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        key = (id(model), id(batch.x))
        if key not in self.shared or not set(names) <= set(self.shared[key][1]):
            wanted = tuple(dict.fromkeys((*self.taps, *names)))
            if wanted:
                with tap(model, wanted) as seen:
                    output = model(batch.x)
                self.shared[key] = (output, seen)
            else:
                self.shared[key] = (model(batch.x), {})
        return self.shared[key]

    def generator(self, index: int) -> torch.Generator:
        """A generator that depends on the seed and the example's number alone."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + index * 7_919 + 17) % (2**63))

    def normal(self, index: Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal draws (N, *shape) on `device`, example i's depending on index[i] alone."""
        draws = [torch.randn(tuple(shape), generator=self.generator(int(i))) for i in index]
        return torch.stack(draws).to(self.device)

    def uniform(self, index: Tensor, shape: Sequence[int]) -> Tensor:
        """Draws from [0, 1), shaped and seeded as in `normal`."""
        draws = [torch.rand(tuple(shape), generator=self.generator(int(i))) for i in index]
        return torch.stack(draws).to(self.device)


@dataclass(frozen=True)
class Ask:
    """A training that a method asks the lab for.

    `changes` overrides values of the recipe by dotted path; `start` is None (a new model), "parent" (the
    model that a link or audit is given), or another ask (the model that it trains, on the same data);
    `transforms` are `prepare` entries (mappings with `name`) that the lab's data pass first; `models` gives
    the training's methods frozen models by role: "dense", "parent", or the name of one of `trainings` that the
    asking method's parameters name.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    start: Literal["parent"] | Ask | None = None
    transforms: Sequence[Mapping[str, Any]] = ()
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A finished training: the model, its history (one row an epoch), its kept checkpoints, and the data that it
    was trained on."""

    model: nn.Module
    history: Sequence[Mapping[str, float]]
    load_checkpoint: Callable[[str], nn.Module]
    checkpoints: Sequence[str]
    data: Data

    def trajectory(self) -> Iterator[tuple[str, nn.Module]]:
        """The kept checkpoints in order, each loaded when it is reached."""
        for name in self.checkpoints:
            yield name, self.load_checkpoint(name)


@dataclass(frozen=True)
class Failed:
    """An ask, or an evaluator's question of its model, that came to nothing; `reason` is shown to people."""

    reason: str


class Lab(Protocol):
    """What a method that trains is given. `train` returns finished trainings or raises `Pending`; `loss` is the
    recipe's objective of predictions (N,), None where that is no function of predictions alone.

    `attempt` is `train` where a training may fail: a loss that diverges, a network that cannot be built. `measure`
    asks each evaluator of each ask's model; both trainings and answers are kept like those of a run. `evaluate` asks
    of any model, as it is, at once: its predictions are made as the run makes them in audits, studies and searches,
    and are the network's own in transforms and links, which come before."""

    data: Data
    recipe: Mapping[str, Any]
    loss: Callable[[Tensor, Batch], Tensor] | None

    def new_model(self, seed: int) -> nn.Module: ...

    def train(self, asks: Sequence[Ask]) -> list[Trained]: ...

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]: ...

    def measure(
        self, asks: Sequence[Ask], evaluators: Sequence[str | Mapping[str, Any]]
    ) -> list[list[Result | Failed]]: ...

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result: ...


class Predictor(Protocol):
    """A batch to its predictions, without gradients, whatever runs beneath."""

    def __call__(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Subject:
    """What audits and evaluators look at: a trained model and all that may be compared with it.

    `loss` is the recipe's objective of predictions, (N,), None where that is no function of predictions alone.
    `predict` is the deployed inference (onnxruntime's kernels for an int8 model); `model` the network, with
    gradients; `answering` the module whose pass is a prediction. `images` is the audited part of the test split
    with `target`, the dense model's prediction; `explain` recomputes the audited saliency on any model. `exported`
    is the exported file; `runtime(threads)` what a user would call, inputs to predictions on the CPU: that file in
    onnxruntime, or the run's method of `predict`.
    """

    model: nn.Module
    predict: Predictor
    spec: DataSpec
    data: Mapping[str, Data]
    images: Batch | None = None
    score: Scorer | None = None
    loss: Callable[[Tensor, Batch], Tensor] | None = None
    reference: Subject | None = None
    peers: Sequence[nn.Module] = ()
    trajectory: Callable[[], Iterator[tuple[str, nn.Module]]] | None = None
    explain: Callable[[nn.Module, Batch], Attribution] | None = None
    exported: Path | None = None
    runtime: Callable[[int], Callable[[np.ndarray], np.ndarray]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    through: nn.Module | None = None

    @property
    def answering(self) -> nn.Module:
        """The module whose pass is a prediction, with gradients where there are any: what attacks and questions
        about changed inputs are put to. It is `through`, the model within the run's method of `predict`, where
        there is one, else the model."""
        return self.model if self.through is None else self.through


# activations


@contextlib.contextmanager
def tap(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of the named submodules of each forward pass inside the block."""
    seen: dict[str, Tensor] = {}

    def saver(name: str) -> Callable[..., None]:
        def save(module: nn.Module, args: Any, output: Tensor) -> None:
            seen[name] = output

        return save

    with contextlib.ExitStack() as stack:
        for name in names:
            handle = model.get_submodule(name).register_forward_hook(saver(name))
            stack.callback(handle.remove)
        yield seen


@contextlib.contextmanager
def patch(model: nn.Module, change: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replaces the outputs of the named submodules by `change[name](output)` inside the block."""

    def replacer(fn: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda module, args, output: fn(output)

    with contextlib.ExitStack() as stack:
        for name, fn in change.items():
            stack.callback(model.get_submodule(name).register_forward_hook(replacer(fn)).remove)
        yield


def takes_time(model: nn.Module) -> bool:
    """Whether a network is one of inputs and times: `forward(x, t)`, t (N,) in [0, 1]."""
    return "t" in inspect.signature(model.forward).parameters
