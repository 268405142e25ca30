"""One of two processes that share the passes of small models: `python two_processes.py RANK FILE` prints, for each
check, what is wrong with it. Each holds what the two give together against the model's own pass."""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import AssayError, BadInput, patch, tap
from assay.tasks.group import Group
from assay.tasks.parallel import share
from assay.tasks.ranks import Place, joined

CHECKS: list[Callable[[Group], None]] = []
N = 7  # three and four examples


def check(function: Callable[[Group], None]) -> Callable[[Group], None]:
    """Adds a check."""
    CHECKS.append(function)
    return function


class Net(nn.Module):
    """`layers` and `head`."""

    def __init__(self, *layers: nn.Module, width: int = 6):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(x).flatten(1))
        return found


def smooth() -> Net:
    """A model with curvature."""
    return Net(nn.Linear(4, 6), nn.Tanh())


def pair(make: Callable[[], nn.Module], group: Group) -> tuple[nn.Module, nn.Module]:
    """A model, and the same shared."""
    torch.manual_seed(0)
    plain = make().double()
    shared = copy.deepcopy(plain)
    share(shared, group)
    return plain, shared


def data(*shape: int, n: int = N) -> Tensor:
    """Random inputs, the same in both processes."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(a: Tensor, b: Tensor, what: str) -> None:
    """Raises where two tensors are not the same but for rounding."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13, msg=lambda text: f"{what}: {text}")


def grads(model: nn.Module, loss: Tensor, graph: bool = False) -> list[Tensor | None]:
    """The gradient of each parameter."""
    found = torch.autograd.grad(loss, list(model.parameters()), create_graph=graph, allow_unused=True)
    return list(found)


def same_grads(a: list[Tensor | None], b: list[Tensor | None]) -> None:
    """Asserts that gradients are the same, and missing at the same places."""
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert (x is None) == (y is None), f"gradient {i} is missing in one"
        if x is not None and y is not None:
            close(y, x, f"gradient {i}")


@check
def outputs_and_gradients(group: Group) -> None:
    """Of a loss that couples the batch."""
    plain, shared = pair(smooth, group)
    x = data(4)
    a, b = plain(x), shared(x)
    close(b, a, "output")
    same_grads(grads(plain, a.square().mean(0).prod()), grads(shared, b.square().mean(0).prod()))


@check
def weights_used_beside_the_pass(group: Group) -> None:
    """They are not counted twice; an unused parameter has no gradient."""
    plain, shared = pair(smooth, group)
    shared.unused, plain.unused = nn.Linear(2, 2), nn.Linear(2, 2)
    x = data(4)

    def loss(model: nn.Module) -> Tensor:
        decay = torch.stack([p.square().sum() for p in model.layers.parameters()]).sum()
        found: Tensor = model(x).logsumexp(1).mean() + decay + model.head(torch.ones(1, 6).double()).sum()
        return found

    same_grads(grads(plain, loss(plain)), grads(shared, loss(shared)))


@check
def inputs_have_gradients(group: Group) -> None:
    plain, shared = pair(smooth, group)
    a, b = data(4).requires_grad_(), data(4).requires_grad_()
    (at_a,) = torch.autograd.grad(plain(a).square().sum(), a)
    (at_b,) = torch.autograd.grad(shared(b).square().sum(), b)
    close(at_b, at_a, "gradient of the input")


@check
def second_derivatives(group: Group) -> None:
    """Of the weights, as an optimizer takes them, and of the inputs, as a gradient penalty; through batch norm."""
    for make in (smooth, lambda: Net(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())):
        plain, shared = pair(make, group)
        found = []
        for model in (plain, shared):
            x = data(4).requires_grad_()
            output = model(x)
            slopes = grads(model, output.square().mean(), graph=True)
            (at_x,) = torch.autograd.grad(output[:, 0].sum(), x, create_graph=True)
            total = torch.stack([g.square().sum() for g in slopes if g is not None]).sum() + at_x.square().sum()
            found.append(grads(model, total))
        same_grads(*found)


@check
def batch_norm(group: Group) -> None:
    """Outputs, gradients and running statistics, of maps and of vectors."""
    for make, shape in (
        (lambda: Net(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), width=12), (2, 4, 4)),
        (lambda: Net(nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=None), nn.Tanh()), (4,)),
        (lambda: Net(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False, track_running_stats=False)), (4,)),
    ):
        plain, shared = pair(make, group)
        x = data(*shape)
        for _ in range(2):
            a, b = plain(x), shared(x)
            close(b, a, "output")
            same_grads(grads(plain, a.square().mean()), grads(shared, b.square().mean()))
        for (name, value), other in zip(plain.named_buffers(), shared.buffers(), strict=True):
            close(other, value, name)
        close(shared.eval()(x), plain.eval()(x), "output in eval mode")


@check
def dropout(group: Group) -> None:
    """The very masks of one process, also of rows that are places in an example."""

    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            n, t, d = x.shape
            return F.dropout(x.reshape(n * t, d), 0.3).view(n, t, d)

    for make, shape in (
        (lambda: Net(nn.Linear(4, 6), nn.Dropout(0.5)), (4,)),
        (lambda: Net(nn.Conv2d(2, 6, 3), nn.Dropout2d(0.5)), (2, 3, 3)),
        (lambda: Net(Rows(), nn.Flatten()), (2, 3)),
    ):
        plain, shared = pair(make, group)
        x = data(*shape)
        torch.manual_seed(3)
        a = plain(x)
        state = torch.get_rng_state()
        torch.manual_seed(3)
        close(shared(x), a, "output")
        assert torch.equal(torch.get_rng_state(), state), "the generator is elsewhere"


@check
def other_draws_are_refused(group: Group) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    _, shared = pair(lambda: Net(nn.Linear(4, 6), Noisy()), group)
    with pytest.raises(BadInput, match="draws random numbers itself"):
        shared(data(4))


@check
def activations_are_the_batchs(group: Group) -> None:
    """What is read of hidden layers, and what is changed there."""
    plain, shared = pair(smooth, group)
    x = data(4)
    found, outputs = [], []
    for model in (plain, shared):
        with tap(model, ["layers", "layers.0"]) as seen:
            output = model(x)
        hidden = seen["layers"]
        assert hidden.shape == (N, 6)
        outputs.append(seen["layers.0"])
        found.append(grads(model, output.sum() * hidden.square().mean(0).sum() + seen["layers.0"].std()))
        with patch(model, {"layers": lambda h: h - h.mean(0)}):
            outputs.append(model(x))
    close(outputs[2], outputs[0], "activations")
    close(outputs[3], outputs[1], "output of the changed layer")
    same_grads(*found)
    assert not any(module._forward_hooks for module in shared.modules())


@check
def several_inputs(group: Group) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor, t: Tensor, scale: Tensor | float = 1.0) -> Tensor:
            found: Tensor = self.head(x * scale) * t[:, None]
            return found

    plain, shared = pair(Two, group)
    x, t = data(4), data()
    close(shared(x, t=t), plain(x, t=t), "with a time")
    close(shared(x, t, torch.tensor(2.0)), plain(x, t, 2.0), "with a number for all")


@check
def few_examples(group: Group) -> None:
    """Fewer than processes: each computes all."""
    plain, shared = pair(smooth, group)
    x = data(4, n=1)
    a, b = plain(x), shared(x)
    close(b, a, "output")
    same_grads(grads(plain, a.sum()), grads(shared, b.sum()))


@check
def inside_transforms(group: Group) -> None:
    """A Jacobian by torch.func, which each computes whole."""
    plain, shared = pair(smooth, group)
    x = data(4)
    close(torch.func.jacrev(shared)(x), torch.func.jacrev(plain)(x), "jacobian")


@check
def without_gradients(group: Group) -> None:
    plain, shared = pair(smooth, group)
    with torch.no_grad():
        close(shared(data(4)), plain(data(4)), "output")


@check
def copies_are_plain(group: Group) -> None:
    _, shared = pair(smooth, group)
    assert copy.deepcopy(shared)._compiled_call_impl is None


@check
def another_first_dimension_is_refused(group: Group) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(x).T
            return found[: 3 if len(x) == 4 else 2]

    _, shared = pair(Turned, group)
    with pytest.raises(BadInput, match="the model's output has no row for each"):
        shared(data(4))


@check
def a_state_that_differs_is_found(group: Group) -> None:
    group.agree({"weights": torch.ones(3), "history": [{"loss": 0.1}]})
    with pytest.raises(AssayError, match="do not compute the same"):
        group.agree({"weights": torch.ones(3) + group.rank * 1e-6})


def main() -> None:
    rank, file = int(sys.argv[1]), sys.argv[2]
    found = {}
    with joined(Place(rank, 2, "gloo", file), torch.device("cpu")) as group:
        for function in CHECKS:
            try:
                function(group)
                found[function.__name__] = ""
            except Exception:
                found[function.__name__] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
