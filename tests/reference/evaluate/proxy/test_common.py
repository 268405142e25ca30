"""Which network the training-free metrics look at, in which mode, and on which examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Context, NotAuditable, Subject
from assay.plugins.evaluate.proxy._common import minibatch, untrained
from assay.plugins.evaluate.proxy.snip import Snip

X, Y = np.random.default_rng(0).normal(size=(9, 4)), np.zeros((9, 3), np.float32)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).eval()


def context(given: Subject, seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=given.spec)


def snip(given: Subject, **parameters: str) -> float:
    return Snip(**parameters).evaluate(given, context(given)).numbers["snip"].value  # type: ignore[arg-type]


def test_it_is_the_checkpoint_of_epoch_0(given: Callable[..., Subject]) -> None:
    first, last = network(0), network(1)
    kept = [("epoch-00000", first), ("epoch-00003", last)]
    trained = dataclasses.replace(given(last, X, Y), trajectory=lambda: iter(kept))
    assert snip(trained) == snip(given(first, X, Y)) != snip(given(last, X, Y))
    assert snip(trained, over="trajectory") == snip(given(last, X, Y))


@pytest.mark.parametrize("kept", [None, [("epoch-00003", network(0))]])
def test_what_was_not_kept_cannot_be_looked_at(
    given: Callable[..., Subject], kept: list[tuple[str, nn.Module]] | None
) -> None:
    trained = dataclasses.replace(given(network(0), X, Y), trajectory=None if kept is None else lambda: iter(kept))
    with pytest.raises(NotAuditable, match=r"before its training.*train.keep"):
        snip(trained)


def test_a_compressed_model_was_never_untrained(given: Callable[..., Subject]) -> None:
    shown = given(network(0), X, Y)
    with pytest.raises(NotAuditable, match=r"before its training.*made of a trained one"):
        snip(dataclasses.replace(shown, trajectory=None, reference=shown))


def test_batch_norms_see_the_batch_and_dropout_is_off(given: Callable[..., Subject]) -> None:
    shown = given(network(0), X, Y)
    copy = untrained(shown, "model", context(shown))
    assert [module.training for module in copy] == [False, True, False]
    assert not any(module.training for module in shown.model)
    assert float(copy(torch.tensor(X, dtype=torch.float32)).mean(0).abs().max()) < 1e-6
    assert float(shown.model[1].running_mean.abs().max()) == 0  # type: ignore[index, operator, union-attr]


def test_examples_are_drawn_from_the_training_split(given: Callable[..., Subject]) -> None:
    shown = given(network(0), X, Y)
    one, again, other = (minibatch(shown, 5, context(shown, seed)).index.tolist() for seed in (0, 0, 1))
    assert one == again != other
    assert len(set(one)) == 5
    assert sorted(minibatch(shown, 50, context(shown)).index.tolist()) == list(range(9))
    assert float(minibatch(shown, 50, context(shown)).x.abs().max()) < 50  # the test split is a hundred times larger


def test_an_objective_that_calls_the_model_itself_has_no_gradient_to_look_at(given: Callable[..., Subject]) -> None:
    with pytest.raises(NotAuditable, match="no function of predictions alone"):
        snip(dataclasses.replace(given(network(0), X, Y), loss=None))
