"""One training's passes through its network, shared out over the processes of a group.

Every process draws the same batches and computes the same losses of the whole batch; the network alone sees a
process's own part of the examples. What it gives, and the gradients of its inputs and weights, are those of the whole
batch in every process, wherever they are asked for: no method need know of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from assay.plugins.contract import BadInput
from assay.tasks.group import Added, Group, Kept, Part, Same, Whole
from assay.tasks.job import generator_states


def refusals(size: int, learner: Any, around: Sequence[Any], compiled: bool) -> Iterator[tuple[str, str]]:
    """The parts of a recipe that `size` processes cannot share, each with the reason."""
    if size == 1:
        return
    one = f"and train.devices is {size}; set it to 1"
    if "devices" not in learner.card.gives:
        yield "learner", f"{learner.method_name()} learns in one process, {one}"
    for i, method in enumerate(around):
        if "apart" in method.card.needs:
            yield f"around.{i}", f"{method.method_name()} needs each example's gradient in one process, {one}"
    if compiled:
        yield "compile", f"compiled code does not talk with other processes, {one}, or compile to false"


def share(model: nn.Module, group: Group) -> None:
    """Has a group share out the model's calls from now on, in place; copies of the model are not shared."""
    model._compiled_call_impl = Calls(model, group)  # type: ignore[assignment]  # a copy leaves it behind


class Calls:
    """What a shared model does when it is called: each process computes the rows of its own examples, and all
    return all rows. A batch with fewer examples than processes is computed whole by each, as are calls inside
    torch.func's transforms: nothing can be sent from there."""

    def __init__(self, model: nn.Module, group: Group):
        self.model, self.group = model, group
        self.plain = model._call_impl
        self.inside = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batched = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.ndim]
        total = len(batched[0]) if batched else 0
        transformed = torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
        if self.inside or transformed or total < self.group.size:
            return self.plain(*args, **kwargs)

        def own(value: Any) -> Any:
            examples = isinstance(value, Tensor) and value.ndim and len(value) == total
            return Part.apply(value, self.group, total) if examples else value

        shared = Pass(self.group, total)
        self.inside = True
        try:
            with shared.hooks_see_all(self.model), shared:
                found = self._own_rows(tuple(map(own, args)), {name: own(value) for name, value in kwargs.items()})
        finally:
            self.inside = False
        shared.check_draws()
        return shared.whole(found, "the model's output")

    def _own_rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not trained or not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        same = dict(zip(trained, Same.apply(self.group, *trained.values()), strict=True))
        return torch.func.functional_call(self.model, same, args, kwargs)


class Pass(TorchFunctionMode):
    """One pass of `total` examples, inside which functions that look across the batch or draw for it see to it
    that the processes together do what one would."""

    def __init__(self, group: Group, total: int):
        super().__init__()
        self.group, self.total = group, total
        own = group.part(total)
        self.count = own.stop - own.start
        self.states = generator_states(group.device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(self, func, *args, **(kwargs or {}))

    def rows(self, values: Any, what: str) -> int:
        """How many rows all processes together have of `values`. Raises BadInput where its rows are no examples, or
        places in them one example after the other."""
        if not isinstance(values, Tensor) or not values.ndim or len(values) % self.count:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise BadInput(
                f"train.devices: {what} has no row for each of {self.count} examples (it is {shape}), so that "
                f"{self.group.size} processes cannot share the batch; set train.devices to 1"
            )
        return len(values) // self.count * self.total

    def whole(self, own: Tensor, what: str) -> Tensor:
        """The rows of all processes."""
        self.rows(own, what)
        found: Tensor = Whole.apply(own, self.group, self.total)
        return found

    def check_draws(self) -> None:
        """Raises BadInput where the pass drew random numbers that were not drawn for the whole batch."""
        if any(not torch.equal(a, b) for a, b in zip(self.states, generator_states(self.group.device), strict=True)):
            raise BadInput(
                f"train.devices: the model draws random numbers itself, which {self.group.size} processes cannot share "
                "(those of dropout layers they can); set train.devices to 1"
            )

    @contextlib.contextmanager
    def hooks_see_all(self, model: nn.Module) -> Iterator[None]:
        """Inside the block forward hooks (`tap`, `patch`) get, and may change, the outputs for the whole batch."""

        def whole(module: nn.Module, args: Any, output: Any) -> Tensor:
            return self.whole(output, f"the output of {type(module).__name__}, which a term of the training reads,")

        def part(module: nn.Module, args: Any, output: Any) -> Tensor:
            found: Tensor = Part.apply(output, self.group, self.total)
            return found

        with contextlib.ExitStack() as stack:
            for module in [m for m in model.modules() if m._forward_hooks]:
                stack.callback(module.register_forward_hook(whole, prepend=True).remove)
                stack.callback(module.register_forward_hook(part).remove)
            yield


def batch_norm(
    shared: Pass,
    func: Any,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` by the mean and variance of the whole batch."""
    if not training:
        plain: Tensor = func(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return plain
    count = x[0, 0].numel() * shared.rows(x, "the input of a batch norm")
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    found, mean, variance = Normalised.apply(values, weight, bias, eps, count, shared.group)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_var.lerp_((variance * (count / (count - 1))).to(running_var), momentum)
    return found.to(x.dtype)


class Normalised(torch.autograd.Function):
    """Batch norm of a process's own part of `count` values a channel; and the mean and variance of all. Its processes
    meet once on the way there and once on the way back."""

    @staticmethod
    def forward(
        ctx: Kept, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, count: int, group: Group
    ) -> Any:
        over, shape = places(x)
        own = x.mean(dim=over)
        spread = (x - own.view(shape)).square_().mean(dim=over)
        share = x.numel() / x.shape[1] / count
        row = torch.cat([own.new_full((1,), share), own, spread]).double()[None]
        shares, means, spreads = group.joined(row, group.size).split([1, len(own), len(own)], dim=1)
        mean = (shares * means).sum(dim=0)
        variance = (shares * (spreads + (means - mean).square())).sum(dim=0).to(own)
        mean = mean.to(own)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.eps, ctx.count, ctx.group = eps, count, group
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor) -> Any:
        x, weight, bias, mean, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # it may be differentiated once more
            given = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
            again = normalised(x, weight, bias, ctx.eps, ctx.count, ctx.group)
            slopes = iter(torch.autograd.grad(again, given, grads[0], create_graph=True))
            wanted = [t is not None and t.requires_grad for t in (x, weight, bias)]
            return *(next(slopes) if want else None for want in wanted), None, None, None
        up, inverse = grads[0], (variance + ctx.eps).rsqrt()
        mask = [False, True, True]
        sums = torch.ops.aten.native_batch_norm_backward
        _, at_weight, at_bias = sums(up, x, weight, None, None, mean, inverse, True, ctx.eps, mask)
        slope, level = (total / ctx.count for total in ctx.group.added([at_weight, at_bias]))
        scale = inverse if weight is None else inverse * weight
        # scale * (up - level - slope * normalised x), in two walks over the values
        at_x = F.batch_norm(x, mean, variance, -scale * slope, -scale * level, False, 0.0, ctx.eps)
        at_x.addcmul_(up, scale.view(places(x)[1]))
        return at_x, None if weight is None else at_weight, None if bias is None else at_bias, None, None, None


def normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, count: int, group: Group) -> Tensor:
    """What `Normalised` computes, of operations that can be differentiated again."""
    over, shape = places(x)

    def mean_of(values: Tensor) -> Tensor:
        (added,) = Added.apply(group, values.sum(dim=over))
        (same,) = Same.apply(group, added / count)
        found: Tensor = same.view(shape)
        return found

    centred = x - mean_of(x)
    found = centred * (mean_of(centred.square()) + eps).rsqrt()
    found = found if weight is None else found * weight.view(shape)
    return found if bias is None else found + bias.view(shape)


def places(x: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """The dimensions of a channel's values (N, C, ...), and the shape in which a number a channel meets them."""
    return [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))


def dropout(
    shared: Pass, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """A dropout whose draws are those of the whole batch, of which each process takes its part."""
    if not training:
        return input
    shared.check_draws()
    rows = shared.rows(input, "the input of a dropout")
    ones = input.new_ones(rows, *input.shape[1:])
    if input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last):
        ones = ones.contiguous(memory_format=torch.channels_last)  # draws are in the order of memory
    mask = func(ones, p, True)[shared.group.part(shared.total, rows // shared.total)]
    shared.states = generator_states(shared.group.device)
    return input.mul_(mask) if inplace else input * mask


RULES: Mapping[Any, Callable[..., Tensor]] = {
    F.batch_norm: batch_norm,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), dropout),
}
