"""Networks that a user brings: found by `package.module:name`, their children renamed, their outputs checked."""

from __future__ import annotations

import difflib
import importlib
import inspect
import site
import sys
import sysconfig
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, DataSpec

LIBRARIES = tuple(
    Path(folder).resolve()
    for folder in {
        *(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)


def find(target: str) -> Callable[..., Any]:
    """The class or function that `package.module:name` names. It must be a class of modules, a function of the
    user's own files, or one that says that it returns a module: a library's `load` must not be called because a
    params file names it. Raises ValueError with what would be right.
    """
    module_name, _, name = target.partition(":")
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{target!r}: {module_name} belongs to Python itself; name a module of your own")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's file raises when it runs
        why = f"{type(error).__name__}: {error}"
        hint = "it must lie in the project's folder, beside params.yaml, or be installed"
        raise ValueError(f"{target!r}: module '{module_name}' cannot be imported ({why}); {hint}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known[:8]) or 'none'}"
        raise ValueError(f"{target!r}: module '{module_name}' has no function or class '{name}'; {hint}")
    if isinstance(found, type):
        if not issubclass(found, nn.Module):
            raise ValueError(f"{target!r} is no torch.nn.Module: name a subclass, or a function that returns one")
    elif not inspect.isfunction(found) or not (_is_users(found) or _says_module(found)):
        raise ValueError(
            f"{target!r} is a library's function that does not say that it returns a torch.nn.Module: "
            f"write a function of your own that calls it, and name that"
        )
    return found


def _is_users(function: Any) -> bool:
    file = Path(inspect.getfile(function)).resolve()
    return not any(file.is_relative_to(folder) for folder in LIBRARIES)


def _says_module(function: Any) -> bool:
    try:
        returned = typing.get_type_hints(function).get("return")
    except Exception:  # annotations may name what is not there
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def call(target: str, arguments: Mapping[str, Any], spec: DataSpec) -> nn.Module:
    """The network: the target called with the data's description, where its first parameter is called `spec`,
    and the arguments. Raises BadInput where that fails or gives no module."""
    function = find(target)
    names = list(inspect.signature(function).parameters)
    positional = (spec,) if names[:1] == ["spec"] else ()
    try:
        model = function(*positional, **arguments)
    except Exception as error:
        given = ", ".join([*("spec" for _ in positional), *(f"{k}={v!r}" for k, v in arguments.items())])
        raise BadInput(
            f"train.model.target: {target}({given}) failed: {type(error).__name__}: {error}; "
            f"its parameters are ({', '.join(names)}): give them as `arguments`"
        ) from error
    if not isinstance(model, nn.Module):
        raise BadInput(f"train.model.target: {target} returned a {type(model).__name__}; it must be a torch.nn.Module")
    return model


def renamed(model: nn.Module, names: Mapping[str, str], key: str) -> nn.Module:
    """The network with children renamed: `names` maps the parameter (`layers`, `head`) to the child that is meant.
    Its own code goes on to reach them by their old names. Raises BadInput where there is no such child."""
    children = dict(model.named_children())
    for new, old in names.items():
        if old not in children:
            raise BadInput(
                f"{key}.{new}: the model has no child '{old}'; its children are {', '.join(children) or 'none'}. "
                f"`layers` must name the one that computes features, `head` the last layer"
            )
    if len(set(names.values())) < len(names):
        raise BadInput(f"{key}: `layers` and `head` must name two children, both name '{next(iter(names.values()))}'")
    back = {old: new for new, old in names.items() if old != new}
    taken = [new for new in back.values() if new in children]
    if taken:
        raise BadInput(f"{key}.{taken[0]}: the model has another child called '{taken[0]}'; rename that one")
    if not back:
        return model
    model._modules = {back.get(name, name): child for name, child in model._modules.items()}  # type: ignore[assignment]
    aliases = {old: _alias(new) for old, new in back.items()}
    model.__class__ = type(type(model).__name__, (type(model),), aliases)
    return model


def _alias(name: str) -> property:
    def child(self: nn.Module) -> nn.Module | None:
        return self._modules[name]

    return property(child)


def with_new_names(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A checkpoint's tensors by their names after `renamed`."""
    back = {old: new for new, old in names.items()}

    def new_name(name: str) -> str:
        top, dot, rest = name.partition(".")
        return back.get(top, top) + dot + rest

    return {new_name(name): tensor for name, tensor in weights.items()}


def check_outputs(model: nn.Module, spec: DataSpec, what: str) -> None:
    """Raises BadInput where the network cannot take the data, or its outputs have the wrong shape."""
    if spec.problem not in ("classification", "regression"):
        return  # the others' predictions are not one row of numbers an example
    training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = model.eval()(torch.zeros(2, *spec.shape))
    except Exception as error:
        raise BadInput(
            f"{what} cannot take the data's examples, of shape {list(spec.shape)}: {type(error).__name__}: {error}; "
            f"change the model, or the data (`size` of the source, transforms)"
        ) from error
    finally:
        model.train(training)
    expected = (2, spec.n_outputs)
    if not isinstance(out, Tensor) or tuple(out.shape) != expected:
        found = list(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
        outputs = f"its {len(spec.classes)} classes" if spec.classes else f"its {spec.n_outputs} outputs"
        raise BadInput(
            f"{what}: two examples give {found}, expected {list(expected)}: one row each, one number for each of the "
            f"data set's outputs ({outputs}); build the head with `spec.n_outputs`, or use data with as many classes"
        )
