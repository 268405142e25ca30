"""Classification of frozen embeddings: by nearest neighbours and by a linear probe."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions

ROWS = 1024


def vote(test: Tensor, train: Tensor, y: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Each class's weight (N, classes): the sum of exp(cosine / temperature) over those of the `k` nearest
    training embeddings that are of the class."""
    unit = F.normalize(train, dim=1)
    found = []
    for part in F.normalize(test, dim=1).split(ROWS):
        likeness, at = (part @ unit.T).topk(min(k, len(unit)), dim=1)
        weights = ((likeness - 1) / temperature).exp()  # a common factor, which keeps it in range
        found.append(weights.new_zeros(len(part), classes).scatter_add_(1, y[at], weights))
    return torch.cat(found)


def probe(test: Tensor, train: Tensor, y: Tensor, classes: int, decay: float) -> Tensor:
    """Logits (N, classes) of multinomial logistic regression on standardised embeddings, with an l2 penalty
    of `decay` / 2 per example."""
    mean, deviation = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(1e-6)
    x = (train - mean) / deviation
    with torch.enable_grad():
        weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
        bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, y) + decay / 2 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return ((test - mean) / deviation) @ weight.detach() + bias.detach()


class KNN(Evaluator):
    """Accuracy on the test split of two classifiers of the frozen embeddings of the training split.

    `knn`: the weighted vote of the `k` nearest by cosine, each with exp(cosine / temperature); `probe`:
    logistic regression.
    """

    card = Card(
        title="Unsupervised Feature Learning via Non-Parametric Instance-level Discrimination",
        paper="arxiv:1805.01978",
        also=("arxiv:1610.01644",),
        problems=("representation",),
        needs=("train_data",),
    )
    k: int = Field(200, ge=1, le=100_000, description="neighbours that vote; all training examples if there are fewer")
    temperature: float = Field(0.07, gt=0, le=100, description="of a neighbour's weight")
    decay: float = Field(1e-3, ge=0, le=100, description="l2 penalty of the linear probe")

    def numbers(self) -> tuple[str, ...]:
        return ("knn", "probe")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        data = subject.data["main"]
        test, train = (predictions(subject, split, ctx) for split in (data.test, data.train))
        true, y, classes = labels(data.test), labels(data.train), len(subject.spec.classes)
        voted = vote(test, train, y, classes, self.k, self.temperature).argmax(dim=1)
        probed = probe(test, train, y, classes, self.decay).argmax(dim=1)
        numbers = {
            "knn": mean_number((voted == true).numpy(), "Share of test examples that their neighbours classify.", 1),
            "probe": mean_number((probed == true).numpy(), "Share of test examples that a linear probe classifies.", 1),
        }
        return Result(numbers)
