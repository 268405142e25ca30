"""Examples to be drawn anew instead of judged."""

from __future__ import annotations

from assay.plugins.contract import Card, Data, Record, Transform


class Generation(Transform):
    """Makes the data a problem of generation: a model learns to draw examples like `x`.

    Every field stays; `y` is what a guide may be trained on.
    """

    card = Card(title="A data set's examples as a distribution to draw from", makes="generation")

    def apply(self, data: Data, record: Record) -> Data:
        """The same examples with another problem."""
        return data.replace(spec=data.spec.model_copy(update={"problem": "generation"}))
