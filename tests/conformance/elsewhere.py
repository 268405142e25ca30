"""An accelerator that is not there: tensors that claim a device of their own and compute on the CPU.

As on a real one, an operation on tensors of two devices is an error, and so is a numpy view of its tensors
or a CPU generator that draws onto it; what is not told to go there stays on the CPU. It is known to torch for
the whole process once `register` was called, so it belongs into a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
CPU = torch.device("cpu")
CROSSING = ("copy_", "_to_copy")  # between devices
INDEXING = ("index", "index_put", "index_put_")  # the positions may be on the CPU
KEPT: list[Any] = []  # what registers the device, for as long as it lives


class Elsewhere(Tensor):
    """A tensor of the device; `here` holds its values."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        found: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[assignment]
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        found.here = here
        return found

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            memo[id(self)] = copy = self.detach().clone().requires_grad_(self.requires_grad)
            copy._is_param = getattr(self, "_is_param", False)
        return memo[id(self)]

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        """A new tensor of these numbers beside this one."""
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device, **options})

    def tolist(self) -> Any:
        """The values as plain numbers."""
        return self.here.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Where the values are."""
        return self.here.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, args, kwargs or {})


def compute(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation as the device would do it. Raises RuntimeError where no device could."""
    name = op.overloadpacket.__name__
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    ours = [value for value in tensors if isinstance(value, Elsewhere)]
    wanted = kwargs.get("device")
    there = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    if ours and name not in CROSSING:
        refuse_mixtures(name, args[0], tensors)
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{name}: a CPU generator cannot draw onto the device")
    options = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
    if wanted is not None:
        options["device"] = CPU
    if name == "_efficientzerotensor":  # forward-mode's zeros hold no numbers, and what knows that lies above this
        op = torch.ops.aten.zeros.default
    result = op(*tree_map(inner, args), **tree_map(inner, options))
    known = {id(value.here): value for value in ours}  # an operation in place answers with what it was given

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor) or not there:
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value)

    return args[0] if name == "copy_" else tree_map(outer, result)


def inner(value: Any) -> Any:
    """What the CPU computes with."""
    return value.here if isinstance(value, Elsewhere) else value


def refuse_mixtures(name: str, first: Any, tensors: Sequence[Tensor]) -> None:
    """Raises RuntimeError where tensors of the CPU meet the device's, save single numbers and positions."""
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim > 0]
    if name in INDEXING and isinstance(first, Elsewhere):
        strangers = [t for t in strangers if t.dtype not in (torch.int64, torch.bool)]
    if strangers:
        raise RuntimeError(f"{name}: expected all tensors on one device, found the CPU's {tuple(strangers[0].shape)}")


def register() -> torch.device:
    """Makes the device known to torch; once in a process."""
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: compute(op, args, kwargs), "PrivateUse1")
    plain = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        found = plain(data, **options)
        return found if device is None else found.to(device)

    torch.tensor = tensor  # torch's own copies below the dispatcher, where no fallback is asked
    torch.inference_mode = torch.no_grad  # type: ignore[misc,assignment]  # wrappers cannot be inference tensors
    KEPT.append(library)
    return torch.device(NAME)
