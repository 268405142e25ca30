"""Decibels worked by hand, in whatever units the model sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, Data, DataSpec, Result, Split, Subject
from assay.plugins.evaluate.fidelity.psnr import PSNR


def evaluate(spec: DataSpec, x: np.ndarray, y: np.ndarray, prediction: np.ndarray) -> Result:
    split = Split({"x": x.astype(np.float32), "y": y.astype(np.float32)})

    def predict(batch: Batch) -> Tensor:
        return torch.from_numpy(prediction)[batch.index]

    subject = Subject(nn.Identity(), predict, spec, {"main": Data(spec, {"train": split, "test": split})})
    return PSNR().evaluate(subject, Context(rng=torch.Generator(), spec=spec, batch_limit=2))


def test_worked_by_hand() -> None:
    y = np.zeros((3, 1, 2, 2))
    prediction = y.copy()
    prediction[0] += 0.1  # mean squared error 0.01: 20 dB
    prediction[1, 0, 0, 0] = 0.02  # 0.0001: 40 dB
    result = evaluate(DataSpec(problem="restoration", shape=(1, 2, 2)), y + 1.0, y, prediction)
    np.testing.assert_allclose(result.numbers["psnr"].each, [20, 40, 100], atol=1e-6)
    np.testing.assert_allclose(result.numbers["gain"].each, [20, 40, 100], atol=1e-6)  # the input has 0 dB
    assert result.numbers["psnr"].value == pytest.approx(160 / 3)


def test_the_unit_is_the_models_own() -> None:
    rng = np.random.default_rng(0)
    x, y, prediction = rng.random((3, 4, 2, 3, 3))
    plain = evaluate(DataSpec(problem="restoration", shape=(2, 3, 3)), x, y, prediction)
    mean, deviation = np.array([0.4, 0.6]).reshape(2, 1, 1), np.array([0.2, 0.5]).reshape(2, 1, 1)
    spec = DataSpec(problem="restoration", shape=(2, 3, 3), low=(-2, -1.2), high=(3, 0.8), scale=(5.0, 2.0))
    normal = evaluate(spec, *((v - mean) / deviation for v in (x, y, prediction)))
    for name in ("psnr", "gain"):
        np.testing.assert_allclose(normal.numbers[name].each, plain.numbers[name].each, rtol=1e-5)


def test_a_signal_is_compared_with_its_mean() -> None:
    y = np.array([[[0.0], [1.0]], [[0.2], [0.4]]])
    spec = DataSpec(problem="field", modality="coordinates", shape=(2, 2), outputs=1, low=(-1.0,))
    result = evaluate(spec, np.zeros((2, 2, 2)), y, y + 0.1)
    np.testing.assert_allclose(result.numbers["psnr"].each, [20, 20], atol=1e-5)
    # The means' squared errors are 0.25 and 0.01.
    np.testing.assert_allclose(result.numbers["gain"].each, [20 + 10 * np.log10(0.25), 0], atol=1e-5)


def test_of_a_single_signal_there_is_no_interval() -> None:
    spec = DataSpec(problem="field", modality="coordinates", shape=(2, 2), outputs=1, low=(-1.0,))
    assert evaluate(spec, np.zeros((1, 2, 2)), np.eye(2)[None, :, :1], np.zeros((1, 2, 1))).numbers["psnr"].each is None
