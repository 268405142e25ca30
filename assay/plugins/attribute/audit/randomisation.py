"""The cascading randomisation check."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.attribute._maps import pair, spearman
from assay.plugins.contract import (
    Attribution,
    Audit,
    Batch,
    Card,
    Context,
    Field,
    NotAuditable,
    Number,
    Result,
    Subject,
)


def from_the_head_down(model: nn.Module) -> list[str]:
    """Names of the modules that own parameters: the head's first, then the others from the last defined."""
    modules = [(n, m) for n, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]
    names = [name for name, _ in reversed(modules)]
    head = [name for name in names if name.split(".")[0] == "head"]
    return head + [name for name in names if name not in head]


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Initialises a module anew by torch's global generator, in place.

    A module without `reset_parameters` gets its parameters' entries in random order: as uninformed, and
    of the same scale.
    """
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        mixed = parameter.flatten()[torch.randperm(parameter.numel(), device=parameter.device)]
        parameter.copy_(mixed.view_as(parameter))


def cascade(
    model: nn.Module,
    explain: Callable[[nn.Module], Attribution],
    original: Attribution,
    counts: list[int],
    seed: int,
    device: torch.device,
) -> Tensor:
    """Rank correlation (stages, N) of the maps' magnitudes with the original's, when the last counts[s]
    modules from the head down are randomised. `model` stays as it is."""
    changed = copy.deepcopy(model).cpu()
    names = from_the_head_down(changed)
    found, done = [], 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for count in counts:
            for name in names[done:count]:
                randomise(changed.get_submodule(name))
            done = count
            found.append(spearman(*pair(original, explain(copy.deepcopy(changed).to(device)), absolute=True)).cpu())
    return torch.stack(found)


class Randomisation(Audit):
    """Does the map still look the same when the model has forgotten everything?

    Modules are initialised anew, cumulatively, from the head down; at each stage the map is recomputed
    and compared with the original by the rank correlation of magnitudes. A map that stays as it was does
    not depend on what the model has learned.
    """

    card = Card(
        title="Sanity Checks for Saliency Maps",
        paper="arxiv:1810.03292",
        claim="Gradient maps change when the weights are randomised; edge maps, which look alike, do not.",
        verdict="reproduced",
    )
    stages: int = Field(
        4, ge=1, le=256, description="points of the cascade at which maps are recomputed; at the last all is randomised"
    )
    images: int = Field(64, ge=1, description="at most so many of the audited images")

    def numbers(self) -> tuple[str, ...]:
        return ("agreement",)

    def audit(self, subject: Subject, attribution: Attribution, ctx: Context) -> Result:
        """`agreement` after full randomisation and the curve over the stages. Raises NotAuditable where the
        saliency cannot be recomputed or no map's rank correlation is defined."""
        if subject.explain is None or subject.images is None:
            raise NotAuditable("the saliency cannot be recomputed on another model")
        explain, batch = subject.explain, subject.images.take(slice(self.images)).to(ctx.device)
        original = Attribution(attribution.values[: self.images].detach().to(ctx.device), attribution.over)
        names = from_the_head_down(subject.model)
        if not names:
            raise NotAuditable("the model has no parameters to randomise")
        last = np.linspace(1, len(names), min(self.stages, len(names))) if self.stages > 1 else [len(names)]
        counts = [round(count) for count in last]
        seed = int(torch.randint(2**62, (), generator=ctx.rng))
        table = cascade(subject.model, _on(explain, batch), original, counts, seed, ctx.device).numpy()
        if not np.isfinite(table[-1]).any():
            raise NotAuditable("no image has a map whose rank correlation is defined: they are constant or not finite")
        return Result(
            {
                "agreement": Number(
                    float(np.nanmean(table[-1])),
                    "correlation",
                    -1,
                    "Rank correlation of a map's magnitudes with those of the map after all of the model's weights are "
                    "randomised, mean over images; near 0 for a map that depends on what was learned.",
                    table[-1],
                )
            },
            {
                "agreement": np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in table]),
                "randomised": np.array(counts),
                "layers": np.array([names[count - 1] for count in counts]),
            },
        )


def _on(explain: Callable[[nn.Module, Batch], Attribution], batch: Batch) -> Callable[[nn.Module], Attribution]:
    return lambda model: explain(model, batch)
