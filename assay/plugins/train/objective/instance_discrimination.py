"""Instance discrimination with a memory bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Context, Data, Field, Objective


class Bank(nn.Module):
    """The last embedding of every training example, of unit length, and the softmax's normalising constant
    (0 until it is estimated)."""

    values: Tensor
    constant: Tensor

    def __init__(self, size: int, dim: int, rng: torch.Generator):
        super().__init__()
        self.register_buffer("values", F.normalize(torch.randn(size, dim, generator=rng), dim=1))
        self.register_buffer("constant", torch.zeros(()))


def noise_contrastive(positive: Tensor, negative: Tensor, constant: Tensor, size: int) -> Tensor:
    """-log h(positive) - sum over negatives of log(1 - h(negative)), (N,), for exponents f.v / tau of each
    example's own entry (N,) and of m others (N, m); h = P / (P + m / size) with P = exp(exponent) / constant."""
    noise = math.log(negative.shape[1] / size) + constant.log()
    return F.softplus(noise - positive) + F.softplus(negative - noise).sum(dim=1)


class InstanceDiscrimination(Objective):
    """Tells each training example from all others by the cosine of its embedding with their last ones.

    The softmax over all examples, exp(f.v_i / tau) / Z, with a memory bank of embeddings v, is learned by
    noise-contrastive estimation against `negatives` entries drawn from the bank (0: the softmax itself).
    Z is n times the mean exponential over the drawn entries, a running mean over batches: the paper keeps
    the first batch's (`constancy` 1), which few examples and a bank that is still random make far too small.
    `proximal` times the squared way from v_i to f is added.
    Then f enters the bank: v_i becomes (momentum v_i + (1 - momentum) f), normalised; the paper replaces
    it (momentum 0), the authors' code has 0.5. The bank changes with each evaluation of the loss.
    """

    card = Card(
        title="Unsupervised Feature Learning via Non-Parametric Instance-level Discrimination",
        paper="arxiv:1805.01978",
        claim="On digits under a strong slanted light, new at each look, embeddings learned without labels classify by "
        "their nearest neighbours better than those of the untrained network and than the pixels (without the light "
        "pixels are better, and training gains nothing reliable).",
        verdict="reproduced",
        problems=("representation",),
        coupled=True,
    )
    temperature: float = Field(0.07, gt=0, le=100, description="tau of the softmax")
    negatives: int = Field(1024, ge=0, le=65_536, description="entries drawn from the bank; 0 takes all, as a softmax")
    constancy: float = Field(0.9, ge=0, le=1, description="share of Z that stays; 1 keeps the first batch's estimate")
    proximal: float = Field(0.0, ge=0, le=1e4, description="lambda, the weight of the proximal term")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of the old embedding that stays in the bank")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        """A bank of random unit vectors, one a training example."""
        return Bank(len(data.train), data.spec.n_outputs, ctx.rng)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each example (N,)."""
        assert isinstance(ctx.own, Bank)
        bank = ctx.own
        size = len(bank.values)
        unit = F.normalize(ctx.forward(model, batch).float(), dim=1)
        old = bank.values[batch.index]
        if self.negatives:
            drawn = torch.randint(size, (batch.size, self.negatives), generator=ctx.rng).to(unit.device)
            negative = torch.einsum("nd,nmd->nm", unit, bank.values[drawn]) / self.temperature
            estimate = size * negative.detach().exp().mean()
            kept = self.constancy if bank.constant else 0.0
            constant = kept * bank.constant + (1 - kept) * estimate
            bank.constant.copy_(constant)
            positive = (unit * old).sum(dim=1) / self.temperature
            losses = noise_contrastive(positive, negative, constant, size)
        else:
            before = bank.values.clone()  # the gradient is taken after the bank has changed
            losses = F.cross_entropy(unit @ before.T / self.temperature, batch.index, reduction="none")
        losses = losses + self.proximal * (unit - old).square().sum(dim=1)
        mixed = self.momentum * old + (1 - self.momentum) * unit.detach()
        bank.values[batch.index] = F.normalize(mixed, dim=1)
        return losses
