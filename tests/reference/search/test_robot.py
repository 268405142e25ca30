"""RoBoT's steps against a Gaussian process written out, against brute force, and by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from assay.plugins.contract import AssayError, Context, DataSpec
from assay.plugins.search.robot import RoBoT, explore, greedy, normalised, suggest


def test_metrics_are_scaled_to_0_1_over_the_space() -> None:
    nan = np.nan
    found = normalised(np.array([[1.0, -50.0, 7.0, nan, nan], [3.0, 50.0, 7.0, 2.0, nan], [2.0, nan, 7.0, 4.0, nan]]))
    expected = [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0.5, 0, 0, 1, 0]]
    assert found.tolist() == expected


def confidence(weights: np.ndarray, values: np.ndarray, at: np.ndarray, kappa: float, length: float) -> np.ndarray:
    """The upper confidence bound by linear algebra: a Matérn 5/2 process on standardised values."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = np.sqrt(5) * np.linalg.norm(a[:, None] - b[None], axis=2) / length
        return (1 + r + r**2 / 3) * np.exp(-r)

    centre, spread = values.mean(), values.std()
    inverse = np.linalg.inv(kernel(weights, weights) + 1e-6 * np.eye(len(weights)))
    cross = kernel(at, weights)
    mean = cross @ inverse @ ((values - centre) / spread)
    variance = 1 - np.einsum("ij,jk,ik->i", cross, inverse, cross)
    return centre + spread * (mean + kappa * np.sqrt(np.maximum(variance, 0)))


@pytest.mark.parametrize("kappa", [0.1, 2.576])
def test_the_suggestion_has_the_highest_upper_confidence_bound(kappa: float) -> None:
    rng = np.random.default_rng(0)
    weights = rng.uniform(-1, 1, size=(12, 2))
    values = np.sin(3 * weights[:, 0]) + weights[:, 1] ** 2
    found = suggest(weights, values, kappa, np.random.default_rng(1))
    fitted = GaussianProcessRegressor(
        Matern(nu=2.5), alpha=1e-6, normalize_y=True, n_restarts_optimizer=5, random_state=0
    )
    length = float(fitted.fit(weights, values).kernel_.length_scale)
    line = np.linspace(-1, 1, 301)
    grid = np.array(list(itertools.product(line, line)))
    best = confidence(weights, values, grid, kappa, length).max()
    assert (np.abs(found) <= 1).all()
    assert confidence(weights, values, found[None], kappa, length)[0] >= best - 1e-3


def test_each_step_observes_the_network_that_ranks_first_and_none_twice() -> None:
    rng = np.random.default_rng(0)
    metrics, accuracy = rng.uniform(size=(40, 3)), rng.uniform(size=40)
    asked: list[int] = []

    def observe(i: int) -> float:
        asked.append(i)
        return float(accuracy[i])

    seen, weights = explore(metrics, observe, 15, 2.576, np.random.default_rng(1))
    assert list(seen) == asked
    assert len(set(asked)) == len(asked) <= 15
    assert all(seen[i] == accuracy[i] for i in seen)
    assert int(np.argmax(metrics @ weights)) == max(seen, key=lambda i: seen[i])
    assert (np.abs(weights) <= 1).all()
    assert asked[0] == int(np.argmax(metrics @ np.random.default_rng(1).uniform(-1, 1, size=3)))


def test_the_optimisation_finds_the_best_network_that_many_weights_rank_first() -> None:
    rng = np.random.default_rng(3)
    metrics = rng.uniform(size=(60, 2))
    accuracy = metrics @ [0.6, -0.8] + 0.1 * rng.normal(size=60)
    directions = np.array(list(itertools.product(np.linspace(-1, 1, 401), repeat=2)))
    shares = np.bincount(np.argmax(metrics @ directions.T, axis=0), minlength=60) / len(directions)
    reachable, wide = np.flatnonzero(shares), np.flatnonzero(shares > 0.1)
    assert accuracy[reachable].max() < accuracy.max()  # no weights rank the very best network first
    for seed in range(5):
        seen, _ = explore(metrics, lambda i: float(accuracy[i]), 40, 2.576, np.random.default_rng(seed))
        assert set(seen) <= set(reachable.tolist())
        assert max(seen.values()) >= accuracy[wide].max()


def test_a_network_that_fails_ranks_nowhere_and_costs_a_step() -> None:
    metrics = np.array([[1.0], [0.5], [0.0]])
    accuracy = np.array([np.nan, 0.2, 0.1])
    seen, weights = explore(metrics, lambda i: float(accuracy[i]), 30, 2.576, np.random.default_rng(0))
    assert set(seen) == {0, 1, 2}
    assert int(np.argmax(metrics[1:] @ weights)) == 0
    broken, _ = explore(metrics, lambda i: np.nan, 30, 2.576, np.random.default_rng(0))
    assert len(broken) == 3


def test_greedy_goes_down_the_ranking_past_what_is_known() -> None:
    assert greedy(np.array([0.1, 0.9, 0.5, 0.7, 0.9]), [1], 3) == [4, 3, 2]
    assert greedy(np.array([0.1, 0.9]), [0, 1], 3) == []


# the method on a lab


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(2,)))


def table(n: int = 30) -> tuple[dict[str, list[int]], dict[int, float], dict[int, list[float]]]:
    rng = np.random.default_rng(0)
    scores = {i: [*map(float, rng.normal(size=2))] for i in range(n)}
    return {"cell": list(range(n))}, {i: float(rng.uniform()) for i in range(n)}, scores


def test_queries_are_spent_on_one_step_at_a_time_and_then_on_the_rest_of_the_ranking(
    table_lab: Callable[..., Any],
) -> None:
    space, errors, scores = table()
    lab = table_lab(errors, scores)
    changes, result = RoBoT(metrics=("proxy/snip", "proxy/grasp"), queries=12).search(space, lab, context())
    explored = int(result.numbers["explored"].value)
    assert [len(several) for several in lab.asked] == [1] * explored + [12 - explored]
    asked = [i for several in lab.asked for i in several]
    assert len(set(asked)) == 12
    assert errors[changes["cell"]] == min(errors[i] for i in asked) == result.numbers["validation_error"].value

    metrics = normalised(np.array([scores[i] for i in space["cell"]]))
    weights = np.array([result.numbers[f"weight of {name}"].value for name in ("snip", "grasp")])
    ranking = np.argsort(-(metrics @ weights))
    assert ranking[0] == min(asked[:explored], key=lambda i: errors[i])
    assert asked[explored:] == [i for i in ranking if i not in asked[:explored]][: 12 - explored]
    assert result.arrays["snip"].tolist() == [scores[i][0] for i in asked]
    again = table_lab(errors, scores)
    RoBoT(metrics=("proxy/snip", "proxy/grasp"), queries=12).search(space, again, context())
    assert again.asked == lab.asked


def test_what_no_metric_can_be_asked_of_is_not_trained_and_told(table_lab: Callable[..., Any]) -> None:
    space, errors, scores = table(6)
    lab = table_lab(errors, {**scores, 2: [None, None], 3: [None, 1.0]})
    _, result = RoBoT(metrics=("proxy/snip", "proxy/grasp"), queries=6).search(space, lab, context())
    asked = [i for several in lab.asked for i in several]
    assert sorted(asked) == [0, 1, 3, 4, 5]
    assert result.arrays["cell"].tolist()[-1] == "2"
    assert result.arrays["failure"].tolist() == [""] * 5 + ["cannot be built"]
    assert result.numbers["ranked"].value == 5
    with pytest.raises(AssayError, match="no metric can be asked of any point; the first: cannot be built"):
        RoBoT(metrics=("proxy/snip",)).search(space, table_lab(errors, {i: [None] for i in range(6)}), context())


def test_it_names_what_it_asks_the_lab_for() -> None:
    assert RoBoT(metrics=("proxy/snip", "evaluate/proxy/grasp")).uses() == (
        "prepare/transform/validation_split",
        "evaluate/proxy/snip",
        "evaluate/proxy/grasp",
    )
