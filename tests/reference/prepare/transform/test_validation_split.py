"""The validation split against what a stratified share must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadData, Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.validation_split import ValidationSplit

SPEC = DataSpec(shape=(1,), modality="features", classes=("a", "b", "c"))


def given(counts: tuple[int, ...] = (60, 30, 10)) -> Data:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return Data(SPEC, {"train": Split({"x": x, "y": y}), "test": Split({"x": -x[:4], "y": y[:4]})})


def split(method: ValidationSplit, data: Data, seed: int = 0) -> Data:
    return method.apply(data, method.fit(data, Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)))


def test_every_example_is_on_one_side_in_its_old_order_with_the_classes_shares() -> None:
    data = given()
    found = split(ValidationSplit(share=0.2), data)
    train, validation = found.train.fields, found.splits["validation"].fields
    assert np.bincount(validation["y"]).tolist() == [12, 6, 2]
    assert np.bincount(train["y"]).tolist() == [48, 24, 8]
    both = np.concatenate([train["x"], validation["x"]]).ravel()
    assert sorted(both) == data.train.fields["x"].ravel().tolist()
    for part in (train, validation):
        assert (np.diff(part["x"].ravel()) > 0).all()
        assert np.array_equal(data.train.fields["y"][part["x"].ravel().astype(int)], part["y"])
    assert found.test is data.test


def test_the_draw_depends_on_the_seed_and_without_classes_on_nothing_else() -> None:
    data = given()
    one, same, other = (split(ValidationSplit(), data, seed).splits["validation"].fields["x"] for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    shuffled = data.replace(splits={"train": data.train.replace(y=data.train.fields["y"][::-1].copy())})
    free = ValidationSplit(stratify=False)
    first, second = (split(free, d).splits["validation"].fields["x"] for d in (data, shuffled))
    assert np.array_equal(first, second)
    assert len(first) == 10


def test_small_shares_and_what_cannot_be_split() -> None:
    assert len(split(ValidationSplit(share=0.001), given()).splits["validation"]) == 1
    assert len(split(ValidationSplit(share=0.999), given((2, 1, 1))).train) == 1
    with pytest.raises(BadData, match="have a split `validation` already"):
        split(ValidationSplit(), split(ValidationSplit(), given()))
    with pytest.raises(BadData, match="1 training examples cannot be split"):
        split(ValidationSplit(), given((1,)))
