"""Where the tokens of a vision transformer are: embedded patches, blocks, queries, keys and values."""

from __future__ import annotations

from torch import Tensor, nn

from assay.plugins.contract import BadInput

EMBEDDED = "layers.embed"
"""The submodule that gives the tokens (N, 1 + patches, dim), the class token first."""
PATCHES = "layers.embed.linear"
"""The submodule that embeds the patches (N, patches, dim), before positions are added."""


def blocks(model: nn.Module, objective: str, whose: str) -> list[str]:
    """The model's blocks in order, each with queries, keys and values in `attention.qkv`. Raises BadInput where it
    is no vision transformer."""
    known = dict(model.named_modules())
    found = [name for name in known if name.startswith("layers.") and f"{name}.attention.qkv" in known]
    if not found or PATCHES not in known:
        raise BadInput(f"train.objective: {objective} needs tokens of patches, as vit has; {whose} has none")
    return found


def cut(x: Tensor, patches: int) -> Tensor:
    """Images (N, C, H, W) as that many square patches in rows, (N, patches, C size size)."""
    n, channels, height, width = x.shape
    size = round((height * width / patches) ** 0.5)
    rows = x.reshape(n, channels, height // size, size, width // size, size)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def take(tokens: Tensor, at: Tensor) -> Tensor:
    """The tokens at the places `at` (N, n) of each example, (N, n, dim)."""
    return tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[2]))
