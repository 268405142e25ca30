"""What predictions, attributions, removals and agreements promise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from assay.plugins.contract import Attribution, Batch, NotAuditable
from assay.plugins.testing.base import Case, Skipped, demand, promise, twice
from assay.plugins.testing.given import plain_context
from assay.plugins.testing.watch import close, same, untouched
from assay.plugins.testing.worlds import IMAGES, World, worlds

PARTS = ([7], [4, 5, 6], [0, 1, 2, 3])
"""The batch taken apart, in another order, one part a single example."""

Call = Callable[[nn.Module, Batch], Tensor]


def caller(case: Case, world: World) -> Call:
    """A method of the slots that answer a batch, as a function of a model and a batch."""

    def call(model: nn.Module, batch: Batch) -> Tensor:
        ctx = plain_context(world)
        if case.id.startswith("attribute/saliency/"):
            found = case.method.attribute(model, batch, world.score, ctx)
            demand(isinstance(found, Attribution), f"`attribute` returns a {type(found).__name__}")
            values: Tensor = found.values
        elif case.id.startswith("attribute/removal/"):
            values = case.method.remove(batch, keep_some(batch), ctx)
        else:
            values = case.method.predict(model, batch, ctx)
        return values

    return call


def keep_some(batch: Batch) -> Tensor:
    """A mask (N, H, W) that keeps about half, an example's own by its index."""
    rows = [torch.rand(batch.x.shape[2:], generator=torch.Generator().manual_seed(int(i))) for i in batch.index]
    return (torch.stack(rows) < 0.5).float()


def asked(case: Case) -> Iterator[tuple[World, Call]]:
    """The worlds in which a method can be asked; Skipped where it says of all that it cannot."""
    done, reasons = False, []
    for world in worlds(case):
        call = caller(case, world)
        try:
            call(world.model(), world.images())
        except NotAuditable as error:
            demand(str(error).strip(), "NotAuditable without a reason")
            reasons.append(str(error))
            continue
        done = True
        yield world, call
    if not done:
        raise Skipped(f"not auditable: {'; '.join(reasons)}")


BATCHED = ("attribute/saliency", "attribute/removal", "predict")


@promise(*BATCHED)
def purity(case: Case) -> None:
    """Model and batch are as they were: bits, mode, hooks, gradients, dtype; the answer holds no graph, but for
    a prediction through which attributions are to pass."""
    explained = case.id.startswith("predict/") and "grad" not in case.cls.card.drops
    for world, call in asked(case):
        model, batch = world.model(), world.images()
        with untouched(model=model, batch=batch):
            values = call(model, batch)
        demand(explained or not values.requires_grad, "the answer still holds a graph: detach it")


@promise("attribute/saliency", "predict")
def purity_after_an_exception(case: Case) -> None:
    """A model that raises in the middle is as it was: no hook, mode or gradient is left."""
    for world, call in asked(case):
        for fuse in (1, 2):
            model, batch = world.model(), world.images()
            model.fuse = fuse  # type: ignore[assignment]
            with untouched(model=model, batch=batch), contextlib.suppress(Exception):
                call(model, batch)


@promise(*BATCHED)
def determinism(case: Case) -> None:
    """The same seed gives the same answer, whatever the global generators hold."""
    for world, call in asked(case):
        same(*twice(partial(call, world.model(), world.images())), "two answers of one seed")


@promise(*BATCHED)
def batch_independence(case: Case) -> None:
    """An example's answer is the same alone, in another order and in another batch, within 1e-5."""
    if case.cls.card.coupled:
        raise Skipped("its card says `coupled`")
    for world, call in asked(case):
        model, batch = world.model(), world.images()
        whole = call(model, batch)
        for part in PARTS:
            close(whole[part], call(model, batch.take(torch.tensor(part))), f"examples {part} apart")


@promise("predict")
def gradient(case: Case) -> None:
    """A gradient reaches the inputs and is finite, so that predictions can be explained and attacked; where the
    card drops `grad` none does."""
    dropped = "grad" in case.cls.card.drops
    for world, call in asked(case):
        batch = world.images()
        x = batch.x.detach().requires_grad_()
        values = call(world.model(), batch.replace(x=x))
        found = torch.autograd.grad(values.sum(), x, allow_unused=True)[0] if values.requires_grad else None
        if dropped:
            demand(found is None, "its card drops `grad`, and a gradient reaches the inputs")
            continue
        demand(found is not None and found.any(), "no gradient reaches the inputs: its card must drop `grad`")
        demand(torch.isfinite(found).all(), "the gradient of the inputs is not finite")  # type: ignore[arg-type]


@promise("attribute/saliency")
def map_shape(case: Case) -> None:
    """Values over the input are finite floats (N, H, W), others have one row an example."""
    for world, _ in asked(case):
        batch = world.images()
        found = case.method.attribute(world.model(), batch, world.score, plain_context(world))
        expected = (batch.size, *(batch.x.shape[2:] if batch.x.ndim == 4 else batch.x.shape[1:]))
        if found.over == "input":
            demand(found.values.shape == expected, f"values are {tuple(found.values.shape)}, not {expected}")
        demand(len(found.values) == batch.size, f"{len(found.values)} rows for {batch.size} examples")
        demand(found.values.is_floating_point(), f"values are {found.values.dtype}")
        demand(torch.isfinite(found.values).all(), "values are not finite")


@promise("attribute/removal")
def keeping_all(case: Case) -> None:
    """Inputs come back in their shape, and as they were where everything is kept."""
    for world, call in asked(case):
        batch = world.images()
        demand(call(world.model(), batch).shape == batch.x.shape, "the inputs' shape changed")
        everything = torch.ones(batch.size, *batch.x.shape[2:])
        close(case.method.remove(batch, everything, plain_context(world)), batch.x, "with everything kept")


@promise("attribute/agreement")
def agreement(case: Case) -> None:
    """Equal maps agree by 1, unequal ones by less; one finite number an example, its own; nothing is
    changed; and maps that are zero everywhere never agree."""
    rng = torch.Generator().manual_seed(0)
    a, b = (Attribution(torch.randn(IMAGES, 8, 8, generator=rng)) for _ in range(2))
    with untouched(a=a, b=b):
        different = case.method.agree(a, b)
    demand(different.shape == (IMAGES,), f"it gives {tuple(different.shape)}, not ({IMAGES},)")
    demand(torch.isfinite(different).all(), "it is not finite")
    demand((different < 0.999).all(), "unrelated maps agree as if they were equal")
    close(case.method.agree(a, a), torch.ones(IMAGES), "equal maps")
    for part in PARTS:
        alone = case.method.agree(Attribution(a.values[part]), Attribution(b.values[part]))
        close(different[part], alone, f"examples {part} apart")
    empty = Attribution(torch.zeros(IMAGES, 8, 8))
    with contextlib.suppress(NotAuditable):
        demand(not (case.method.agree(empty, empty) > 0.999).any(), "two maps of zeros agree perfectly")
