"""Models as ONNX files and as onnxruntime sessions."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from assay.plugins.contract import DataSpec, takes_time
from assay.tasks.qdq import store_codes

OPSET = 17
INPUT = "x"
TIME = "t"
OUTPUT = "prediction"
# Without VNNI instructions the fast uint8 x int8 kernels add pairs in 16 bits, which can saturate.
SESSION_CONFIG = {"session.x64quantprecision": "1"}


def export_onnx(model: nn.Module, spec: DataSpec, path: Path) -> None:
    """Writes a model in eval mode as an ONNX file: input `x` (batch, *spec.shape) of the spec's type, output
    `prediction`.

    A network of a time has the input `t` (batch,) float32 too. Children that take no part in the model's own pass
    (a critic) are left out.
    The batch axis is free. A fake-quantised model becomes QuantizeLinear/DequantizeLinear pairs around its
    layers, with the weights stored as int8; run it with `session_options`. The given model is not changed.
    """
    import onnx

    plain = copy.deepcopy(model).cpu().eval()
    names, given = [INPUT], [torch.zeros(2, *spec.shape, dtype=getattr(torch, spec.dtype))]
    if takes_time(plain):
        names, given = [INPUT, TIME], [*given, torch.zeros(2)]
    with _quiet():
        torch.onnx.export(
            plain,
            tuple(given),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            # Folding would turn the quantised weights back into floats.
            do_constant_folding=False,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in (*names, OUTPUT)},
        )
    proto = onnx.load(str(path))
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        store_codes(proto.graph)
        onnx.checker.check_model(proto)
        onnx.save(proto, str(path))


def session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """An exported model as a function from inputs (N, ...) to predictions (N, ...), on `threads` CPU threads; a
    network of a time is asked for time 0."""
    import onnxruntime

    options = session_options(threads)
    runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    timed = any(taken.name == TIME for taken in runtime.get_inputs())
    kind = np.int64 if "int64" in runtime.get_inputs()[0].type else np.float32

    def predict(x: np.ndarray) -> np.ndarray:
        times = {TIME: np.zeros(len(x), dtype=np.float32)} if timed else {}
        (prediction,) = runtime.run([OUTPUT], {INPUT: np.ascontiguousarray(x, dtype=kind), **times})
        return np.asarray(prediction)

    return predict


def session_options(threads: int) -> Any:
    """onnxruntime's options: fixed threads, one operator at a time, exact 8-bit products."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for name, value in SESSION_CONFIG.items():
        options.add_session_config_entry(name, value)
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about its age and about constants in the trace."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
