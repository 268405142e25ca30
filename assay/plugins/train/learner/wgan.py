"""A generator against a critic that estimates the Wasserstein distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Bound, Card, Context, Data, Field, Learner, State, Terms
from assay.plugins.train.learner._common import descend, own_modules, parameter_groups
from assay.plugins.train.learner._gan import Deceive, noise_like, wasserstein


class WGAN(Learner):
    """Each step trains the critic on the batch and as many draws, and then clips its weights; every `n_critic`-th
    trains the generator too (algorithm 1).

    The model has a child `critic`; the rest of it is the generator. Both have the recipe's optimizer; the paper
    takes RMSprop with a learning rate of 0.00005 and batches of 64. The losses are its own, so that an objective in
    the recipe is refused; penalties and arounds hold for the generator's updates. The log `wasserstein` is the
    critic's estimate, `loss` its negative, which the critic minimises.
    """

    card = Card(
        title="Wasserstein GAN",
        paper="arxiv:1701.07875",
        claim="With n_critic 10 and clip 0.1 (the defaults are 5 and 0.01) the critic's estimate correlates with the "
        "true distance between samples and data, and falls as the samples improve.",
        verdict="reproduced",
        problems=("generation",),
        gives=("apart", "activations"),
        refuses=("objective",),
    )
    n_critic: int = Field(5, ge=1, le=1000, examples=[2], description="steps of the critic for one of the generator")
    clip: float = Field(0.01, gt=0, description="the critic's weights stay within this of zero")

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step. Raises BadInput where the model has no critic."""
        critic = dict(model.named_children()).get("critic")
        if critic is None:
            raise BadInput("train.model: wgan needs a network with a child `critic`, such as gan")
        deceiving = replace(terms, objective=Bound(Deceive(), ctx, terms.objective.name))
        own = own_modules(model, deceiving, data, ctx)
        critics = terms.optimizer.build([{"params": list(critic.parameters()), "name": "critic", "lr_scale": 1.0}])
        critic.requires_grad_(False)
        generators = terms.optimizer.build(parameter_groups(model, own))
        critic.requires_grad_(True)
        return State(model.train(), own, {"main": generators, "critic": critics}, deceiving)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """An update of the critic, and of the generator where it is its turn."""
        if not state.model.training:
            state.model.train()
        estimate = self.train_critic(state, batch, ctx)
        if (ctx.step + 1) % self.n_critic == 0:
            self.train_generator(state, batch, ctx)
        return {"loss": -estimate, "wasserstein": estimate}

    def train_critic(self, state: State, batch: Batch, ctx: Context) -> Tensor:
        """One update; the estimate before it, detached."""
        critic, optimizer = state.model.get_submodule("critic"), state.optimizers["critic"]
        optimizer.zero_grad(set_to_none=True)
        with state.terms.autocast():
            with torch.no_grad():
                fake = state.model(noise_like(batch.x, ctx))
            estimate = wasserstein(critic, batch.x, fake)
        (-estimate).backward()
        optimizer.step()
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-self.clip, self.clip)
        return estimate.detach()

    def train_generator(self, state: State, batch: Batch, ctx: Context) -> None:
        """One update against the critic as it is, on new noise."""
        critic = state.model.get_submodule("critic").requires_grad_(False)
        try:
            descend(state, batch.replace(x=noise_like(batch.x, ctx)))
        finally:
            critic.requires_grad_(True)
