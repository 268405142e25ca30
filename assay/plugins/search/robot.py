"""RoBoT: architecture search by training-free metrics, combined by Bayesian optimisation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from assay.plugins.contract import AssayError, Card, Context, Failed, Field, Lab, Number, Result, Search
from assay.plugins.search._common import SPLIT, Tried, ask, attempt, best, error_number, points, table

DRAWS = 10_000


def normalised(scores: np.ndarray) -> np.ndarray:
    """Metrics (N, M) of a space's N networks, each scaled to [0, 1] over the space; a missing one (NaN) is 0, as is
    a metric that is the same everywhere."""
    low = np.nanmin(np.where(np.isfinite(scores).any(0), scores, 0.0), axis=0)
    span = np.nanmax(np.where(np.isfinite(scores).any(0), scores, 0.0), axis=0) - low
    return np.nan_to_num((scores - low) / np.where(span > 0, span, 1.0))


def suggest(weights: np.ndarray, values: np.ndarray, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """The weights (M,) in [-1, 1] with the highest upper confidence bound, mean + kappa * deviation, of a Gaussian
    process that has seen `values` (t,) at `weights` (t, M)."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern

    process = GaussianProcessRegressor(
        Matern(nu=2.5), alpha=1e-6, normalize_y=True, n_restarts_optimizer=5, random_state=int(rng.integers(2**31))
    )

    def bound(at: np.ndarray) -> np.ndarray:
        mean, deviation = process.predict(np.atleast_2d(at), return_std=True)
        values: np.ndarray = mean + kappa * deviation
        return values

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a length scale ends at its bound is no fault
        process.fit(weights, values)
        drawn = rng.uniform(-1, 1, size=(DRAWS, weights.shape[1]))
        start = drawn[np.argmax(bound(drawn))]
        found = minimize(lambda at: -bound(at)[0], start, method="L-BFGS-B", bounds=[(-1, 1)] * len(start))
    return np.clip(found.x, -1, 1) if -found.fun > bound(start)[0] else start


def explore(
    metrics: np.ndarray, observe: Callable[[int], float], steps: int, kappa: float, rng: np.random.Generator
) -> tuple[dict[int, float], np.ndarray]:
    """Bayesian optimisation of the metrics' weights: each step observes the performance of the network that ranks
    first under the suggested weights, unless it is known.

    Returns the performances by network, in the order in which they were observed, and the weights of the best, of
    equals the latest. A network whose performance is NaN failed: it ranks nowhere from then on.
    """
    seen: dict[int, float] = {}
    weights: list[np.ndarray] = []
    values: list[float] = []
    ranked = np.ones(len(metrics), dtype=bool)
    suggested = np.zeros(metrics.shape[1])
    for _ in range(steps):
        if not ranked.any():
            break
        if values:
            suggested = suggest(np.array(weights), np.array(values), kappa, rng)
        else:
            suggested = rng.uniform(-1, 1, size=(metrics.shape[1],))
        first = int(np.argmax(np.where(ranked, metrics @ suggested, -np.inf)))
        if first not in seen:
            seen[first] = observe(first)
        if np.isnan(seen[first]):
            ranked[first] = False
            continue
        weights.append(suggested)
        values.append(seen[first])
    if not values:
        return seen, suggested
    return seen, weights[max(range(len(values)), key=lambda i: (values[i], i))]


def greedy(combined: np.ndarray, seen: Iterable[int], count: int) -> list[int]:
    """The `count` networks that rank highest by the combined metric (N,) among those not seen."""
    known = set(seen)
    return [int(i) for i in np.argsort(-combined, kind="stable") if int(i) not in known][:count]


class RoBoT(Search):
    """Ranks every point of the space by a weighted sum of training-free metrics, and trains the promising ones.

    T queries in all. The weights in [-1, 1] are explored by Bayesian optimisation in T steps: each step's value is
    minus the validation error of the point that ranks first, which is trained unless it was. That takes T0
    queries; the other T - T0 go down the ranking of the best weights. The metrics are computed for every point of
    the space, on the network before training. The test split is not looked at.
    """

    card = Card(
        title="Robustifying and Boosting Training-Free Neural Architecture Search",
        paper="arxiv:2403.07591",
        claim="With as many queries, the combined metric finds a better network than the single metrics do on average, "
        "and than random search.",
        verdict="reproduced",
    )
    metrics: tuple[str, ...] = Field(
        ("proxy/grad_norm", "proxy/snip", "proxy/grasp", "proxy/fisher", "proxy/synflow", "proxy/jacob_cov"),
        min_length=1,
        description="evaluators, whose first number is the metric",
    )
    queries: int = Field(20, ge=1, le=5000, description="trainings, T; none is asked for twice")
    kappa: float = Field(2.576, ge=0, le=100, description="deviations above the mean in the upper confidence bound")
    validation: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the training examples to set apart, where the data have no such split",
    )

    def uses(self) -> Sequence[str]:
        return (SPLIT, *(f"evaluate/{name.removeprefix('evaluate/')}" for name in self.metrics))

    def search(self, space: Mapping[str, Sequence[Any]], lab: Lab, ctx: Context) -> tuple[Mapping[str, Any], Result]:
        """The best point, and the table of what was tried: first what was explored, then what was taken greedily,
        then points that no metric can be asked of."""
        every = points(space, 5000)
        scores, failures = measured(lab, every, self.metrics, self.validation)
        asked = [i for i in range(len(every)) if not failures[i]]
        metrics = normalised(scores[asked])
        tried: dict[int, Tried] = {}

        def query(several: Sequence[int]) -> list[float]:
            found = attempt(lab, [every[asked[i]] for i in several], self.validation)
            tried.update({asked[i]: one for i, one in zip(several, found, strict=True)})
            return [-one.error for one in found]

        rng = np.random.default_rng(ctx.rng.initial_seed())
        seen, weights = explore(metrics, lambda i: query([i])[0], self.queries, self.kappa, rng)
        query(greedy(metrics @ weights, seen, self.queries - len(seen)))
        tried.update({i: Tried(every[i], np.nan, why) for i, why in enumerate(failures) if why})
        return best(list(tried.values())).point, self.result(tried, scores, weights, len(seen), len(asked))

    def result(
        self, tried: Mapping[int, Tried], scores: np.ndarray, weights: np.ndarray, explored: int, ranked: int
    ) -> Result:
        """The numbers, and the table with the metrics of what was tried."""
        names = [name.rpartition("/")[2] for name in self.metrics]
        numbers = {
            "validation_error": error_number(list(tried.values())),
            "ranked": Number(ranked, "", 0, "Points of the space that the metrics rank."),
            "explored": Number(explored, "", 0, "Points trained by Bayesian optimisation; the rest down the ranking."),
        }
        for name, weight in zip(names, weights, strict=True):
            text = f"Weight of {name}, scaled to [0, 1] over the space, in the best combination."
            numbers[f"weight of {name}"] = Number(float(weight), "", 0, text)
        columns = dict(zip(names, scores[list(tried)].T, strict=True))
        return Result(numbers, table(list(tried.values()), columns))


def measured(
    lab: Lab, every: Sequence[Mapping[str, Any]], metrics: Sequence[str], share: float
) -> tuple[np.ndarray, list[str]]:
    """The metrics (N, M) of the untrained network of each point, NaN where one cannot be asked; and for each point
    why none can, '' where one can. Raises AssayError where that holds for all."""
    names = [name.removeprefix("evaluate/") for name in metrics]
    before = [ask(lab, {**point, "epochs": 0, "keep": [0]}, share) for point in every]
    rows = lab.measure(before, names)
    scores = np.full((len(every), len(metrics)), np.nan)
    failures = []
    for i, row in enumerate(rows):
        for j, found in enumerate(row):
            if not isinstance(found, Failed):
                scores[i, j] = next(iter(found.numbers.values())).value
        reasons = [found.reason for found in row if isinstance(found, Failed)]
        failures.append(reasons[0] if len(reasons) == len(row) else "")
    if all(failures):
        raise AssayError(f"no metric can be asked of any point; the first: {failures[0]}")
    return scores, failures
