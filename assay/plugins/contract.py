"""The contract: what a method is, and one base class per slot.

A method is a frozen pydantic model in a file of its own, named as in `params.yaml`: its fields are the
hyper-parameters, its `card` says where it comes from and what it can do, and one function does the
work. `docs/architecture.md` tells how the frame calls each slot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, get_args, get_origin

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from assay.plugins.values import (
    Ask,
    AssayError,
    Attribution,
    BadData,
    BadInput,
    Batch,
    Context,
    Data,
    DataSpec,
    Failed,
    Lab,
    NotAuditable,
    Number,
    Predictor,
    Record,
    Result,
    Scorer,
    Split,
    Subject,
    Trained,
    patch,
    takes_time,
    tap,
    to_tensor,
)

__all__ = [
    "Agreement",
    "Around",
    "Ask",
    "AssayError",
    "Attribution",
    "Audit",
    "Augment",
    "BadData",
    "BadInput",
    "Batch",
    "Batches",
    "Bound",
    "Card",
    "Context",
    "Data",
    "DataSpec",
    "Edit",
    "Evaluator",
    "Failed",
    "Field",
    "Gradients",
    "Lab",
    "Learner",
    "Link",
    "Method",
    "Model",
    "NextGradients",
    "NotAuditable",
    "Number",
    "Objective",
    "Optimizer",
    "Penalty",
    "Predict",
    "Predictor",
    "Problem",
    "Record",
    "Removal",
    "Result",
    "Saliency",
    "Schedule",
    "Scorer",
    "Search",
    "Source",
    "Split",
    "State",
    "Study",
    "Subject",
    "Terms",
    "Trained",
    "Transform",
    "mean_loss",
    "patch",
    "takes_time",
    "tap",
    "to_tensor",
]


class Card(BaseModel):
    """Where a method comes from, what its paper claims, and its capabilities as data.

    `needs` and `drops` are folded along a chain before anything runs: words such as `float` (weights
    that can be changed), `grad`, `conv`, `mask` (a ground-truth mask in the data), `runtime` (an
    exported model), `machine` (it measures time), `train_data`, `peers`, `trajectory`, `group`
    (domains). What a recipe's methods need its data must give: `validation` (that split); and what
    optimizers and arounds need its learner: `closure`, `graph` (see `Optimizer`), `apart` (each
    example's gradient); terms that say what they read need `activations`. One `gives` `devices` where
    its gradients are those of its calls of the model, which several processes can share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="the paper's exact title, or what the method is where it has none")
    paper: str = Field("", description="arxiv:…, doi:… or a full citation")
    also: tuple[str, ...] = Field((), description="further citations of the same algorithm")
    claim: str = Field("", description="the effect that tests/claims shows in miniature")
    verdict: Literal["reproduced", "not reproduced", "no claim"] = Field(
        "no claim", description="what the claim test found"
    )
    problems: tuple[str, ...] = Field(("any",), description="problems it can be asked of")
    modality: tuple[str, ...] = Field(("any",), description="kinds of input it can take")
    needs: tuple[str, ...] = Field((), description="what the model or data must have")
    roles: tuple[str, ...] = Field((), description="the named models that it cannot do without: `train.models`")
    drops: tuple[str, ...] = Field((), description="what a link takes from the model")
    gives: tuple[str, ...] = Field((), description="what a source, transform, link or learner adds")
    refuses: tuple[str, ...] = Field((), description="slots of the recipe that a learner has no place for")
    anew: bool = Field(False, description="a learner with a start of its own: it cannot train a given model on")
    makes: str = Field("", description="problem of the data set that a source or transform makes, where it is another")
    coupled: bool = Field(False, description="an example's result depends on the rest of its batch")
    serves: bool = Field(False, description="a transform that new data must pass too")
    extra: str = Field("", description="the optional dependency group that it needs")
    library: str = Field("", description="the library that implements it, where one does")


def _only_numbers(annotation: Any) -> bool:
    """Whether a type is made of int, float and None alone: `int`, `float | None`, `tuple[int, ...]`."""
    if get_origin(annotation) is Annotated:
        return _only_numbers(get_args(annotation)[0])
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) is Literal:
        return False
    return all(map(_only_numbers, parts)) if parts else annotation in (int, float, type(None))


class Method(BaseModel):
    """A plugin: a frozen pydantic model whose fields are hyper-parameters with bounds and meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    card: ClassVar[Card]
    slot: ClassVar[str]

    @classmethod
    def method_name(cls) -> str:
        """The name in `params.yaml` without its folder: that of the method's file."""
        return cls.__module__.rsplit(".", 1)[-1]

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if _only_numbers(cls.model_fields[str(info.field_name)].annotation):
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, bool | str):
                    raise PydanticCustomError("number", "Input should be a number, no text and not true or false")
        return value

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module | None:
        """The method's own state as a module (given back as `ctx.own`), or None where it has none."""
        return None


# prepare


class Source(Method):
    """Brings a data set in. It is materialised once as `data/<dataset>` and versioned there."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads a rev of digits as a number
    slot: ClassVar[str] = "prepare/source"
    dataset: str = Field(
        "", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$", description="its name under data/; the method's own where empty"
    )
    rev: str = Field(
        "", pattern=r"^[0-9a-f]*$", description="a prefix of the DVC hash of an older version; the newest where empty"
    )

    def becomes(self) -> str:
        """The data set's problem, known before anything is read."""
        return self.card.makes or "classification"

    def load(self, ctx: Context) -> Data:
        """Fetch, verify and return the data. `ctx.folder` is where downloads are kept.

        Raises BadData where the data are wrong, AssayError where no mirror answers.
        """
        raise NotImplementedError


class Transform(Method):
    """Changes a data set. What `fit` decides on the training split is its record."""

    slot: ClassVar[str] = "prepare/transform"

    def fit(self, data: Data, ctx: Context) -> Record:
        """What to do, decided once; a transform that trains takes `lab` as a third argument."""
        return Record()

    def apply(self, data: Data, record: Record) -> Data:
        """The changed data; a pure function of its arguments, for whatever splits are there."""
        raise NotImplementedError

    def becomes(self, problem: str) -> str:
        """The changed data set's problem, known before anything is read."""
        return self.card.makes or problem


# train


class Model(Method):
    """An architecture."""

    slot: ClassVar[str] = "train/model"

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """A new module with children `layers` (features) and `head`; random draws use torch's global
        generator, which the frame seeds."""
        raise NotImplementedError

    def weights(self, given: Mapping[str, Tensor], spec: DataSpec) -> Mapping[str, Tensor]:
        """The tensors of a checkpoint that a user brings, by the names in the module that `build` gives."""
        return given

    def pretrained(self) -> Path:
        """The safetensors file that comes with the architecture, which `train.from: pretrained` means. Raises BadInput
        where none does."""
        raise BadInput("train.from: no weights come with this model: name a safetensors file")


class Edit(Method):
    """Changes a model before training: blocks, initialisation, heads, adapters."""

    slot: ClassVar[str] = "train/edit"

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """What to change, decided once; a link that trains takes `lab` as a fourth argument."""
        raise NotImplementedError

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """A new model with the record's decisions; never recomputes them."""
        raise NotImplementedError


class Link(Edit):
    """One link of a compression chain."""

    slot: ClassVar[str] = "compress"

    def asks(self) -> Sequence[Ask]:
        """The trainings that `fit` will ask the lab for, where they are known beforehand."""
        return ()

    def constraint(self, model: nn.Module, record: Record) -> Callable[[], None] | None:
        """What must hold again after each later training step, as a function that restores it."""
        return None


class Batches(Method):
    """Which examples make up each batch."""

    slot: ClassVar[str] = "train/batches"

    def epoch(self, data: Split, ctx: Context) -> Iterable[Tensor]:
        """One epoch's index tensors."""
        raise NotImplementedError

    def steps(self, data: Split) -> int:
        """Number of batches in an epoch."""
        raise NotImplementedError


class Augment(Method):
    """Changes a training batch; may add fields."""

    slot: ClassVar[str] = "train/augment"

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """The changed batch."""
        raise NotImplementedError


class Objective(Method):
    """A training loss. Define `score`, or `loss` where the loss itself calls the model."""

    slot: ClassVar[str] = "train/objective"

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss of each example, shape (N,)."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Loss of each example, shape (N,), or a scalar where it couples the batch."""
        return self.score(ctx.forward(model, batch), batch)

    def reads(self, model: nn.Module) -> Sequence[str]:
        """The submodules whose outputs `loss` takes from `ctx.activations`, so that the terms of a step
        share one pass."""
        return ()


class Penalty(Method):
    """A term added to the objective."""

    slot: ClassVar[str] = "train/penalty"

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The weighted penalty: (N,) or a scalar."""
        raise NotImplementedError

    def reads(self, model: nn.Module) -> Sequence[str]:
        """As an objective's."""
        return ()


class Optimizer(Method):
    """An update rule.

    Where the card needs `closure`, the learner calls `step(closure)` with a function that makes new gradients
    and returns the loss; where it needs `graph`, these gradients can be differentiated once more. Learners
    whose cards do not give these words are refused with it.
    """

    slot: ClassVar[str] = "train/optimizer"
    lr: float = Field(1e-3, gt=0, description="learning rate, before the schedule's factor")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """A torch optimizer over named parameter groups (each may have `lr_scale`)."""
        raise NotImplementedError


class Schedule(Method):
    """The factor on the learning rate."""

    slot: ClassVar[str] = "train/schedule"

    def factor(self, step: int, total: int) -> float:
        """The factor for step `step` (from 0) of `total`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Gradients:
    """One gradient evaluation: the examples' losses (N,) or their mean, and one gradient a parameter,
    in the order of `State.parameters()` (None where a parameter has none). Where they were asked for apart,
    each gradient has a row an example."""

    losses: Tensor
    grads: list[Tensor | None]


class NextGradients(Protocol):
    """The rest of the onion, called with a batch, weights of examples (N,), or other terms.

    `apart` asks for one gradient an example: each of `grads` then is (N, *parameter). Raises BadInput where
    another around is further in, or the losses are not one an example.
    """

    def __call__(
        self, batch: Batch, weights: Tensor | None = None, terms: Terms | None = None, apart: bool = False
    ) -> Gradients: ...


class Around(Method):
    """Surrounds the gradient computation: SAM, EMA, clipping, adversarial training, surgery."""

    slot: ClassVar[str] = "train/around"

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        """The gradients to update with. May call `next` more than once, with parameters of
        `state.model` changed in place meanwhile (and restored)."""
        return next(batch)

    def after(self, state: State, ctx: Context) -> None:
        """Called once the update is done."""

    def weights(self, state: State, ctx: Context) -> Mapping[str, Tensor] | None:
        """The state dict entries that validation, kept checkpoints and the final model use, if others."""
        return None


@dataclass
class Bound:
    """A method of this training with its own context."""

    method: Any
    ctx: Context
    name: str


@dataclass
class Terms:
    """All that a learner combines."""

    objective: Bound
    penalties: list[Bound]
    around: list[Bound]
    optimizer: Optimizer
    schedule: Schedule
    total_steps: int
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Objective plus penalties: (N,) where every term has one value an example, else a scalar."""
        total, *others = self.apart(model, batch)
        for term in others:
            total = total + term if total.shape == term.shape else total.mean() + term.mean()
        return total

    def apart(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """The objective and each penalty by itself, in order: (N,) or a scalar each.

        Where the batch says which examples are `labelled`, the objective is asked of those alone; its
        losses are weighted so that their mean over the batch is the mean over the labelled examples.
        """
        bounds = [self.objective, *self.penalties]
        shared: dict[tuple[int, int], tuple[Tensor, dict[str, Tensor]]] = {}
        taps = tuple(dict.fromkeys(name for bound in bounds for name in bound.method.reads(model)))
        found = []
        try:
            for bound in bounds:
                bound.ctx.shared, bound.ctx.taps = shared, taps
                found.append(bound.method.loss(model, batch, bound.ctx))
        finally:
            for bound in bounds:
                bound.ctx.shared = {}
        if "labelled" in batch and found[0].ndim:
            share = batch.labelled.to(found[0])
            found[0] = torch.where(batch.labelled, found[0], 0.0) / share.mean().clamp_min(1 / batch.size)
        return found


@dataclass
class State:
    """All that a training changes, checkpointed whole: the model, the methods' own modules, the
    optimizers, and what else the learner keeps (`extra`, JSON values and tensors)."""

    model: nn.Module
    own: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    terms: Terms
    extra: dict[str, Any] = field(default_factory=dict)

    def parameters(self) -> list[nn.Parameter]:
        """The model's trainable parameters, then those of the methods' own modules."""
        modules = [self.model, *(self.own[k] for k in sorted(self.own))]
        return [p for m in modules for p in m.parameters() if p.requires_grad]


class Learner(Edit):
    """How a model learns: backprop, or anything else with a state and a step.

    A learner whose network is not the recipe's model as it stands (a forward-only inference, an ensemble
    that grows) is an edit too: it overrides `apply`, which the frame calls last before training, and again
    whenever the model artifact is loaded.

    What it cannot honour its card says, and such recipes are refused when planning: slots that it `refuses`
    and that hold other than the default; methods that need words that it does not give; and, where it
    starts `anew`, trainings from a given model.
    """

    slot: ClassVar[str] = "train/learner"

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """What `apply` needs to know of the data, decided once."""
        return Record()

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        """The network that is trained and kept, made of the recipe's model."""
        return model

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step."""
        raise NotImplementedError

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update; returns named scalars, `loss` among them (detached)."""
        raise NotImplementedError

    def finish(self, state: State) -> nn.Module:
        """The trained model."""
        return state.model


def mean_loss(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    """The scalar to differentiate: the (weighted) mean over the examples, or the scalar itself."""
    if weights is not None and losses.ndim:
        losses = losses * weights
    return losses.mean()


# after training


class Predict(Method):
    """Inference that is more than `model(x)`: samplers, suppression, smoothing, adaptation at test time.

    Evaluation and attribution use it in place of the model's own forward pass. Draws come from
    `ctx.normal(batch.index, ...)`, so that an example's prediction depends on nothing else in its batch.
    Predictions are differentiated, to explain and to attack them: a method that leaves no gradient of the
    inputs says so by `drops=("grad",)`.
    """

    slot: ClassVar[str] = "predict"

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Predictions (N, ...), as the problem has them."""
        raise NotImplementedError


class Saliency(Method):
    """An attribution of a model's prediction to its input."""

    slot: ClassVar[str] = "attribute/saliency"

    def attribute(self, model: nn.Module, batch: Batch, score: Scorer, ctx: Context) -> Attribution:
        """Attribution of `score(model(x), batch)` for each example; an example's answer does not
        depend on the others."""
        raise NotImplementedError


class Removal(Method):
    """What it means to take part of an input away."""

    slot: ClassVar[str] = "attribute/removal"

    def remove(self, batch: Batch, keep: Tensor, ctx: Context) -> Tensor:
        """Inputs in which only `keep` (N, H, W; 1 keeps, 0 removes) is left."""
        raise NotImplementedError


class Agreement(Method):
    """How alike two attributions of the same inputs are."""

    slot: ClassVar[str] = "attribute/agreement"

    def agree(self, a: Attribution, b: Attribution) -> Tensor:
        """One number an example, shape (N,), 1 for equal maps; NaN where it is not defined."""
        raise NotImplementedError


class Audit(Method):
    """How faithful one model's attributions are."""

    slot: ClassVar[str] = "attribute/audit"

    def numbers(self) -> tuple[str, ...]:
        """The names of its numbers, the headline first, so that a gate on another is refused before
        anything runs; () where they are not known beforehand."""
        return ()

    def audit(self, subject: Subject, attribution: Attribution, ctx: Context) -> Result:
        """Numbers over `subject.images`; an audit that retrains takes `lab` as a fourth argument.

        Raises NotAuditable with the reason where the question cannot be asked.
        """
        raise NotImplementedError


class Evaluator(Method):
    """Named numbers of one model; with `over: trajectory` also along its training's kept checkpoints."""

    slot: ClassVar[str] = "evaluate"
    over: Literal["model", "trajectory"] = Field(
        "model", description="trajectory: also of each kept checkpoint of the training, as arrays by epoch"
    )

    def numbers(self) -> tuple[str, ...]:
        """As an audit's."""
        return ()

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        """Numbers with unit and direction, and arrays. Raises NotAuditable with the reason where the
        question cannot be asked of this model."""
        raise NotImplementedError


class Search(Method):
    """Looks for a recipe. `space` maps dotted paths of the recipe, as `optimizer.lr` or `model`, to the values
    that may stand there; changes go to `lab.train` as they are."""

    slot: ClassVar[str] = "search"

    def uses(self) -> Sequence[str]:
        """The ids of the methods, none of the recipe's, that it asks the lab for by name: they are known before
        anything runs, and the search is made again where their code changes."""
        return ()

    def search(self, space: Mapping[str, Sequence[Any]], lab: Lab, ctx: Context) -> tuple[Mapping[str, Any], Result]:
        """The best recipe's changes, and the table of what was tried."""
        raise NotImplementedError


class Study(Method):
    """An experiment over many trainings of the recipe: what is asked of the lab is kept, and asked for once."""

    slot: ClassVar[str] = "study"

    def study(self, lab: Lab, ctx: Context) -> tuple[Result, str]:
        """The table (numbers, and arrays of one length that are its columns or curves) and the verdict in a
        sentence."""
        raise NotImplementedError


class Problem(Method):
    """What a data set's fields and a model's outputs mean. Stages know a problem by this interface alone."""

    slot: ClassVar[str] = "problems"
    fields: ClassVar[tuple[str, ...]] = ("x",)
    """The fields that each split must have."""
    objective: ClassVar[str] = ""
    """What trains where the recipe names no objective."""
    headline: ClassVar[str] = ""
    """The first number of a run's table, as a gate would name it."""
    explains: ClassVar[bool] = True
    """Whether an attribution of a prediction to its input means anything."""
    samples: ClassVar[bool] = False
    """Whether predictions are drawn by a `predict` method: the network alone gives none."""

    def check(self, data: Data) -> None:
        """Raises BadData where the data cannot be of this problem."""
        raise NotImplementedError

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """The shape of one example's prediction; -1 where that is the model's own to decide."""
        return (spec.n_outputs,)

    def target(self, prediction: Tensor) -> Tensor:
        """What attributions explain: for each prediction (N, ...) its target (N, ...)."""
        raise NotImplementedError

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The differentiable number (N,) of each prediction that stands for its target."""
        raise NotImplementedError

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether two targets of each example are the same (N,); targets on a continuous scale always are."""
        if a.is_floating_point():
            return torch.ones(len(a), dtype=torch.bool)
        return (a == b).flatten(1).all(dim=1) if a.ndim > 1 else a == b

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Error of each example (N,), 0 where right: what `collapsed` and per-example tables use. Raises
        NotAuditable with the reason where predictions are draws and none is wrong by itself."""
        raise NotImplementedError

    def chance(self, data: Data) -> float:
        """The mean error of the best constant prediction; raises as `error`."""
        raise NotImplementedError
