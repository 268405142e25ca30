"""What one cell's computation is given: its spec, its inputs as folders, and where to write."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from assay.plugins import registry
from assay.plugins.contract import Context, DataSpec, Lab
from assay.tasks.artifacts import load_model

MODEL = "model:"
"""The role of an input that is a named model begins so."""


class ProcessDied(Exception):
    """A process that shares a cell's work ended in the middle of it; the text says which, and how."""


def no_progress(done: int, total: int, note: str) -> None:
    """Reports nothing."""


@dataclass
class Job:
    """One cell at work. `out` is written by the cell and becomes its artifact when the cell is done;
    `work` is kept beside it over a crash, for what a training needs to resume."""

    spec: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out: Path
    work: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    downloads: Path | None = None
    progress: Callable[[int, int, str], None] = no_progress
    lab: Lab | None = None

    def method(self, name: str = "method") -> Any:
        """The method under `name` of the spec."""
        return method_of(self.spec[name])

    def context(self, spec: DataSpec, name: str) -> Context:
        """A context for the method called `name`, seeded from the section's seed and that name, with the
        named models among the inputs."""
        made = context(int(self.spec["seed"]), name, spec, self.device, self.downloads)
        made.models = self.models
        return made

    @functools.cached_property
    def models(self) -> dict[str, nn.Module]:
        """The named, frozen models (teachers, guides, judges) among the inputs."""
        return {
            role.removeprefix(MODEL): load_model(folder).to(self.device).requires_grad_(False)
            for role, folder in self.inputs.items()
            if role.startswith(MODEL)
        }


def method_of(entry: Mapping[str, Any]) -> Any:
    """The method of an entry (`id` and `params`) of a cell's spec."""
    slot, _, name = entry["id"].rpartition("/")
    return registry.make(slot, {"name": name, **entry["params"]}, entry["id"])


def seed_for(seed: int, name: str) -> int:
    """A 62-bit seed from a section's seed and a name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 2


def prepare_process(seed: int, threads: int) -> None:
    """Global generators, threads and precision as the cell wants them, whatever ran here before."""
    torch.set_num_threads(threads)
    # fp32 is fp32: a GPU's TensorFloat-32 keeps 10 bits, and links compare models within 1e-4.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    own = seed_for(seed, "global")
    torch.manual_seed(own)
    np.random.seed(own % 2**32)
    random.seed(own)
    torch.set_grad_enabled(True)


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """States of the global generators that a computation on `device` draws from: the CPU's, and its own."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_generator_states(device: torch.device, states: Sequence[torch.Tensor]) -> None:
    """Sets the states that `generator_states` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)


def context(seed: int, name: str, spec: DataSpec, device: torch.device, folder: Path | None = None) -> Context:
    """A context whose generator is seeded from a section's seed and a name."""
    own = seed_for(seed, name)
    return Context(rng=torch.Generator().manual_seed(own), spec=spec, seed=own, device=device, folder=folder)
