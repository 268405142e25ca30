"""Models whose calls torch compiles."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import torch
from torch import nn

from assay.plugins.values import BadInput

FORMS = 64  # shapes, modes, what takes gradients: some eight in a training, and torch's limit is eight


def compile_calls(model: nn.Module, device: torch.device) -> None:
    """Has torch compile the model's calls, in place: its modules, weights and their names stay as they are.

    Each shape of batch is compiled for itself, because a resumed training meets the shapes in another order. A
    call under `tap` or `patch` is not compiled: compiled code would pass their hooks by.
    Raises BadInput where a CPU's machine has no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise BadInput(
            f"train.compile: true needs a C++ compiler on a CPU, and there is no '{compiler}': install one, name "
            "yours in the environment variable CXX, or set it to false"
        )
    import torch._dynamo  # slow to import

    torch.compiler.reset()  # what other trainings of this process compiled counts for the limit
    torch._dynamo.config.recompile_limit = FORMS  # beyond it torch goes on uncompiled, to other bits

    modules = list(model.modules())

    def call(*inputs: Any) -> Any:
        return model._call_impl(*inputs)

    # `model.compile()` compiles nothing of a model whose forward is torch's own, as nn.Sequential's is.
    compiled = torch.compile(call, dynamic=False)

    def call_or_compiled(*inputs: Any) -> Any:
        hooked = any(module._forward_hooks for module in modules)
        return call(*inputs) if hooked else compiled(*inputs)

    model._compiled_call_impl = call_or_compiled
