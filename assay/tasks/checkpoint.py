"""A whole training state in one safetensors file, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.plugins.values import AssayError

CPU = torch.device("cpu")


class DamagedCheckpoint(AssayError):
    """A checkpoint is not as it was written."""


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` (nested dicts, lists, tensors, scalars) as JSON, its tensors put aside by name; `a` marks one
    that was on an accelerator."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"t" if value.device.type == "cpu" else "a": name}
    if isinstance(value, Mapping):
        return {"d": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"u" if isinstance(value, tuple) else "l": [pack(v, tensors) for v in value]}
    return {"v": value}


def unpack(packed: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The inverse of `pack`; what was on an accelerator comes to `device`."""
    ((kind, value),) = packed.items()
    if kind == "t":
        return tensors[value]
    if kind == "a":
        return tensors[value].to(device)
    if kind == "d":
        return {unpack(k, tensors, device): unpack(v, tensors, device) for k, v in value}
    if kind in "lu":
        items = [unpack(v, tensors, device) for v in value]
        return tuple(items) if kind == "u" else items
    return value


def save_checkpoint(path: Path, value: Any) -> None:
    """Writes `value` to one safetensors file, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    packed = json.dumps(pack(value, tensors))
    tensors["_"] = torch.zeros(1)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"packed": packed, "digest": digest(packed, tensors)})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: torch.device = CPU) -> Any:
    """What `save_checkpoint` wrote, with what was on an accelerator on `device`. Raises DamagedCheckpoint
    where the file is not as it was written."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        packed = metadata["packed"]
        whole = metadata["digest"] == digest(packed, tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from error
    if not whole:
        raise DamagedCheckpoint(f"{path} was changed since it was written")
    return unpack(json.loads(packed), tensors, device)


def resume_from(path: Path, device: torch.device = CPU) -> Any:
    """What `save_checkpoint` wrote, as `load_checkpoint`, or None where there is nothing to resume from. A
    damaged file is put aside, as `<name>.damaged` beside it, so that it is met once."""
    if not path.exists():
        return None
    try:
        return load_checkpoint(path, device)
    except DamagedCheckpoint:
        os.replace(path, path.with_suffix(".damaged"))
        return None


def digest(packed: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the packed JSON and every tensor's name, type, shape and bytes, in hex."""
    found = hashlib.sha256(packed.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
