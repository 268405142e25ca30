"""Classified examples as examples to represent."""

from __future__ import annotations

from assay.plugins.contract import Card, Context, Data, Field, Record, Transform


class Representation(Transform):
    """Asks for an embedding of each example in place of its class; `y` stays, for evaluation and for
    objectives that need it."""

    card = Card(
        title="From classification to representation learning", problems=("classification",), makes="representation"
    )
    dim: int = Field(64, ge=2, le=65_536, description="length of an embedding")

    def fit(self, data: Data, ctx: Context) -> Record:
        """Nothing is decided from the data."""
        return Record()

    def apply(self, data: Data, record: Record) -> Data:
        """The same splits under the other problem."""
        return data.replace(spec=data.spec.model_copy(update={"problem": "representation", "outputs": self.dim}))
