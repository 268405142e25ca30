"""The processes of one training, and the operations by which their tensors come together.

They move tensors between what all processes hold alike (`whole`, `same`) and what is each one's own (`part`), each the
derivative of another: so gradients of any order are right in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from assay.plugins.contract import AssayError
from assay.tasks.checkpoint import digest

T = TypeVar("T")
Kept = Any  # autograd's context
DRIFT = 0.01
"""How far apart, relative, rounding may take processes on accelerators in an epoch."""


@dataclass(frozen=True)
class Group:
    """The processes of one training, seen from one of them. Every method but `part` is called by all at once."""

    rank: int
    size: int
    device: torch.device

    def part(self, total: int, times: int = 1, rank: int | None = None) -> slice:
        """Which of the rows of `total` examples, `times` each, are a process's own (this one's, unless another is
        named)."""
        rank = self.rank if rank is None else rank
        return slice(total * rank // self.size * times, total * (rank + 1) // self.size * times)

    def added(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over the processes of each tensor, the same bits in all."""
        found = list(tensors)
        for kind in dict.fromkeys(t.dtype for t in tensors):
            which = [i for i, t in enumerate(tensors) if t.dtype == kind]
            flat = torch.cat([tensors[i].reshape(-1) for i in which])  # sent at once
            torch.distributed.all_reduce(flat)
            for i, values in zip(which, flat.split([tensors[i].numel() for i in which]), strict=True):
                found[i] = values.view(tensors[i].shape)
        return found

    def joined(self, own: Tensor, total: int) -> Tensor:
        """The rows of `total` examples, of which each process has its part, in order."""
        count = self.part(total)
        times = len(own) // (count.stop - count.start)
        parts = [self.part(total, times, rank) for rank in range(self.size)]
        most = max(part.stop - part.start for part in parts)
        padded = own.new_zeros(most, *own.shape[1:])  # parts differ by a row, and what is sent may not
        padded[: len(own)] = own
        rows = [torch.empty_like(padded) for _ in parts]
        torch.distributed.all_gather(rows, padded)
        return torch.cat([row[: part.stop - part.start] for row, part in zip(rows, parts, strict=True)])

    def first_alone(self, call: Callable[[], T]) -> T:
        """What `call` returns in each process; the first process is done with it before others begin."""
        if self.rank == 0:
            found = call()
        self.added([torch.ones(1, device=self.device)])[0].item()  # which waits for all
        return found if self.rank == 0 else call()

    def agree(self, state: Mapping[str, Any]) -> None:
        """Makes sure that all processes are in the same state. Raises AssayError where they are not.

        On an accelerator kernels may add in any order, so that what each process computes for itself drifts apart
        by rounding: there all take the first one's tensors.
        """
        tensors = list(_tensors(state))
        kept = {str(i): t.contiguous() for i, t in enumerate(tensors) if t.device.type == "cpu"}
        own = torch.frombuffer(bytearray.fromhex(digest("", kept)), dtype=torch.uint8)[None].to(self.device)
        same = len(self.joined(own, self.size).unique(dim=0)) == 1
        if not same or self._drift([t.detach() for t in tensors if t.device.type != "cpu"]) > DRIFT:
            raise AssayError(
                f"train.devices: the {self.size} processes of this training do not compute the same: its model or a "
                "method of it hides a weight, or draws from something that is no generator of its own; set "
                "train.devices to 1"
            )

    def _drift(self, tensors: Sequence[Tensor]) -> float:
        """Gives all the first one's tensors, in place; how far these were from this one's, relative."""
        apart, size = 0.0, 0.0
        for tensor in tensors:
            first = tensor.contiguous()
            first = first.clone() if first is tensor else first
            torch.distributed.broadcast(first, 0)
            apart += (first.double() - tensor.double()).square().sum().item()
            size += first.double().square().sum().item()
            tensor.copy_(first)
        return (apart / size) ** 0.5 if size else 0.0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


# the operations


class Part(torch.autograd.Function):
    """whole → part: this process's rows of `total` examples."""

    @staticmethod
    def forward(ctx: Kept, whole: Tensor, group: Group, total: int) -> Tensor:
        ctx.group, ctx.total = group, total
        return whole[group.part(total, len(whole) // total)].clone()

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> Any:
        return Whole.apply(grads[0], ctx.group, ctx.total), None, None


class Whole(torch.autograd.Function):
    """part → whole: every process's rows of `total` examples, in order."""

    @staticmethod
    def forward(ctx: Kept, own: Tensor, group: Group, total: int) -> Tensor:
        ctx.group, ctx.total = group, total
        return group.joined(own, total)

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> Any:
        return Part.apply(grads[0], ctx.group, ctx.total), None, None


class Same(torch.autograd.Function):
    """The identity on tensors that all processes hold alike; each uses them for its own part, so that their
    gradient is the sum of all."""

    @staticmethod
    def forward(ctx: Kept, group: Group, *tensors: Tensor) -> Any:
        ctx.group = group
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor | None) -> Any:
        given = [g for g in grads if g is not None]
        added = iter(Added.apply(ctx.group, *given))
        return None, *(None if g is None else next(added) for g in grads)


class Added(torch.autograd.Function):
    """The sum over the processes of what each has of its own part."""

    @staticmethod
    def forward(ctx: Kept, group: Group, *tensors: Tensor) -> Any:
        ctx.group = group
        return tuple(group.added(tensors))

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> Any:
        return None, *Same.apply(ctx.group, *grads)
