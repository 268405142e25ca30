"""Precision and recall by loops over all pairs, and on points whose supports are plain to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Context, Data, DataSpec, NotAuditable, Split, Subject
from assay.plugins.evaluate.generation.precision_recall import PrecisionRecall, covered, radii


def by_loops(points: np.ndarray, support: np.ndarray, k: int) -> list[bool]:
    found = []
    for p in points:
        inside = False
        for i, s in enumerate(support):
            others = sorted(np.linalg.norm(s - o) for j, o in enumerate(support) if j != i)
            inside |= bool(np.linalg.norm(p - s) <= others[k - 1])
        found.append(inside)
    return found


def ask(draws: np.ndarray, test: np.ndarray, k: int = 3) -> dict[str, float]:
    spec = DataSpec(problem="generation", modality="features", shape=test.shape[1:])
    data = Data(spec, {"train": Split({"x": test}), "test": Split({"x": test})})
    answer = torch.from_numpy(draws)
    one = Subject(torch.nn.Identity(), lambda batch: answer[batch.index], spec, {"main": data})
    found = PrecisionRecall(neighbours=k).evaluate(one, Context(rng=torch.Generator(), spec=spec))
    return {name: number.value for name, number in found.numbers.items()}


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_loops(k: int) -> None:
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(0.7, 1.2, (30, 4)).astype(np.float32)
    found = ask(fake, real, k)
    assert found["precision"] == np.mean(by_loops(fake, real, k))
    assert found["recall"] == np.mean(by_loops(real, fake, k))


def test_radii_by_hand() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(points, 1).tolist() == [1, 1, 2, 4]
    assert radii(points, 2).tolist() == [3, 2, 3, 6]
    inside = covered(torch.tensor([[-1.0], [-1.1], [12.0]]), points, radii(points, 1))
    assert inside.tolist() == [True, False, False]


def test_one_of_two_modes_is_precise_and_recalls_half() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(c, 0.1, (40, 2)) for c in (-5, 5)]).astype(np.float32)
    fake = rng.normal(5, 0.05, (80, 2)).astype(np.float32)
    found = ask(fake, real)
    assert found["precision"] > 0.95
    assert found["recall"] < 0.5
    assert ask(real, real) == {"precision": 1, "recall": 1}
    assert ask(real + 100, real) == {"precision": 0, "recall": 0}


def test_too_few_examples() -> None:
    with pytest.raises(NotAuditable, match="2 test examples have no 3 neighbours"):
        ask(np.zeros((2, 2), dtype=np.float32), np.ones((2, 2), dtype=np.float32))
