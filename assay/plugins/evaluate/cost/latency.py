"""How long a prediction takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Self

import numpy as np
from pydantic import model_validator

from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Number, Result, Split, Subject


def timed(call: Callable[[np.ndarray], np.ndarray], x: np.ndarray, warmup: int, repeats: int) -> np.ndarray:
    """Milliseconds of each of `repeats` calls, after `warmup` that do not count, without garbage collection."""
    for _ in range(warmup):
        call(x)
    samples = np.empty(repeats)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for i in range(repeats):
            begin = time.perf_counter_ns()
            call(x)
            samples[i] = time.perf_counter_ns() - begin
    finally:
        if collecting:
            gc.enable()
    return samples / 1e6


def inputs(split: Split, size: int) -> np.ndarray:
    """The first `size` examples as the model takes them, from the start again where there are fewer."""
    return np.ascontiguousarray(split.batch(np.arange(size) % len(split)).x.numpy())


class Latency(Evaluator):
    """Time of one call of what is deployed, by batch size: median and 95th percentile. That is the exported model in
    onnxruntime; where the run predicts by a method of the slot `predict`, it is that method, in torch on the CPU.

    Numbers are called `b<size>` and `b<size>_p95`; arrays `samples_b<size>` hold every call's time in ms.
    """

    card = Card(title="Latency of a prediction", needs=("runtime", "machine"))
    threads: int = Field(1, ge=1, le=256, description="CPU threads of a call")
    batches: tuple[int, ...] = Field((1, 32), min_length=1, description="batch sizes; the first is the headline")
    warmup: int = Field(10, ge=0, description="calls before the clock starts")
    repeats: int = Field(50, ge=1, description="timed calls of each batch size")

    @model_validator(mode="after")
    def sizes_are_sane(self) -> Self:
        """Raises ValueError where a batch size is below 1 or stands twice."""
        if min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            raise ValueError(f"batches must be different sizes of at least 1, not {list(self.batches)}")
        return self

    def numbers(self) -> tuple[str, ...]:
        return tuple(f"b{size}{end}" for size in self.batches for end in ("", "_p95"))

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        if subject.runtime is None:
            raise NotAuditable("the model has no exported file to run")
        call = subject.runtime(self.threads)
        numbers, arrays = {}, {}
        for size in self.batches:
            samples = timed(call, inputs(subject.data["main"].test, size), self.warmup, self.repeats)
            arrays[f"samples_b{size}"] = samples
            what = f"one call on {size} example{'s' if size > 1 else ''} with {self.threads} thread(s)"
            numbers[f"b{size}"] = Number(float(np.median(samples)), "ms", -1, f"Median time of {what}.")
            slow = float(np.percentile(samples, 95))
            numbers[f"b{size}_p95"] = Number(slow, "ms", -1, f"95th percentile of the time of {what}.")
        return Result(numbers, arrays)
