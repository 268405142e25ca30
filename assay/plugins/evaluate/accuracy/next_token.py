"""Accuracy and likelihood of predicted tokens."""

from __future__ import annotations

import torch

from assay.plugins.contract import Card, Context, Evaluator, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions


class NextToken(Evaluator):
    """`token`: the share of an example's tokens that are predicted right, `nll`: the mean negative
    log-likelihood of the true token in nats (its exponential is the perplexity), both over the tokens that
    count (labels other than -1), mean over examples; `whole`: the share of examples without a wrong token.
    Array `per_place` (T,): the share of right tokens at each place, NaN where none counts.
    """

    card = Card(title="Next-token accuracy and likelihood", problems=("sequence",))

    def numbers(self) -> tuple[str, ...]:
        return ("token", "nll", "whole")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        logits, y = predictions(subject, split, ctx), labels(split)
        counts = y >= 0
        right = (logits.argmax(dim=2) == y) & counts
        surprise = -logits.log_softmax(dim=2).gather(2, y.clamp_min(0)[..., None])[..., 0] * counts
        total = counts.sum(dim=1)
        numbers = {
            "token": mean_number(
                (right.sum(1) / total).numpy(), "Share of tokens predicted right, mean over examples.", 1
            ),
            "nll": mean_number(
                (surprise.sum(1) / total).numpy(), "Negative log-likelihood of a token, mean over examples.", -1, "nats"
            ),
            "whole": mean_number(
                (right.sum(1) == total).numpy(), "Share of examples in which every token is predicted right.", 1
            ),
        }
        per_place = torch.where(counts.any(0), right.sum(0) / counts.sum(0), torch.nan)
        return Result(numbers, {"per_place": per_place.numpy()})
