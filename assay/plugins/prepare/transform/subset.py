"""Fewer examples."""

from __future__ import annotations

from assay.plugins.contract import Card, Context, Data, Field, Record, Split, Transform
from assay.plugins.prepare.transform._common import draw_seed, labels_of, pick, split_rng


class Subset(Transform):
    """Keeps a random part of a split: the classes' proportions and the examples' order stay."""

    card = Card(title="Stratified random subset")
    train: int = Field(0, ge=0, description="most examples in the training split; 0 keeps all")
    test: int = Field(0, ge=0, description="most examples in the test split; 0 keeps all")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draws."""
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """The smaller data; other splits than `train` and `test` are left as they are."""
        most = {"train": self.train, "test": self.test}

        def change(name: str, split: Split) -> Split:
            limit = most.get(name, 0)
            if limit == 0 or limit >= len(split):
                return split
            rng = split_rng(record.values["seed"], name)
            return split.take(pick(labels_of(split), len(split), limit, rng))

        return data.map(change)
