"""The vision transformer against torch's own layers, numpy and a published parameter count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import BadInput, Context, DataSpec
from assay.plugins.train.model._transformer import Attention, Block
from assay.plugins.train.model.vit import Embed, ViT


def build(method: ViT, spec: DataSpec) -> nn.Module:
    torch.manual_seed(0)
    return method.build(spec, Context(rng=torch.Generator(), spec=spec))


def attention_by_hand(x: np.ndarray, layer: Attention) -> np.ndarray:
    """One image (tokens, dim), head by head, row by row."""
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    tokens, dim = x.shape
    d = dim // layer.heads
    q, k, v = np.split(x @ state["qkv.weight"].T + state["qkv.bias"], 3, axis=1)
    out = np.zeros_like(x)
    for h in range(layer.heads):
        at = slice(h * d, (h + 1) * d)
        for i in range(tokens):
            weights = np.exp(q[i, at] @ k[:, at].T / math.sqrt(d))
            out[i, at] = weights / weights.sum() @ v[:, at]
    return out @ state["project.weight"].T + state["project.bias"]


@torch.no_grad()
def test_attention_against_numpy_and_torch() -> None:
    torch.manual_seed(0)
    layer, x = Attention(12, 3), torch.randn(2, 5, 12) * 2
    got = layer(x)
    for image, expected in zip(x.numpy(), got.numpy()):
        np.testing.assert_allclose(attention_by_hand(image, layer), expected, atol=1e-5)
    q, k, v = (part.reshape(2, 5, 3, 4).transpose(1, 2) for part in layer.qkv(x).chunk(3, dim=-1))
    fused = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12)
    torch.testing.assert_close(layer.project(fused), got, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_block_against_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    block = Block(16, 4, 40)
    for p in block.parameters():
        p.normal_(0, 0.3)
    other = nn.TransformerEncoderLayer(
        16, 4, 40, dropout=0.0, activation=F.gelu, layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.project": "self_attn.out_proj",
        "mlp.up": "linear1",
        "mlp.down": "linear2",
    }
    for ours, theirs in names.items():
        other.get_submodule(theirs).load_state_dict(block.get_submodule(ours).state_dict())
    other.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
    other.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x), other.train()(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_embedding_is_a_strided_convolution_behind_a_token() -> None:
    torch.manual_seed(0)
    embed, x = Embed(channels=3, patches=6, patch=4, dim=8), torch.randn(2, 3, 8, 12)
    kernels = embed.linear.weight.reshape(8, 3, 4, 4)
    patches = F.conv2d(x, kernels, embed.linear.bias, stride=4).reshape(2, 8, 6).transpose(1, 2)
    got = embed(x) - embed.position
    torch.testing.assert_close(got[:, 1:], patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[:, 0], embed.token[0].expand(2, 8), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pool", ["token", "mean"])
@torch.no_grad()
def test_head_sees_the_token_or_the_mean_of_the_patches(pool: str) -> None:
    spec = DataSpec(shape=(1, 8, 8), classes=tuple("abc"))
    model = build(ViT(pool=pool, depth=2, patch=4), spec)
    x = torch.rand(4, 1, 8, 8)
    tokens: Tensor = model.get_submodule("layers")(x)
    assert tokens.shape == (4, 5, 64)
    seen = tokens[:, 0] if pool == "token" else (tokens[:, 1] + tokens[:, 2] + tokens[:, 3] + tokens[:, 4]) / 4
    torch.testing.assert_close(model(x), model.get_submodule("head")(seen), atol=1e-5, rtol=1e-5)


def test_parameters_of_vit_b_16() -> None:
    """86 million in the paper's table 1; the reference checkpoint with 1,000 classes has 86,567,656."""
    spec = DataSpec(shape=(3, 224, 224), classes=tuple(str(i) for i in range(1000)))
    with torch.device("meta"):
        model = build(ViT(patch=16, dim=768, depth=12, heads=12, mlp_ratio=4.0), spec)
    assert sum(p.numel() for p in model.parameters()) == 86_567_656


def test_what_is_refused() -> None:
    with pytest.raises(ValidationError, match="heads must divide dim"):
        ViT(dim=64, heads=5)
    with pytest.raises(BadInput, match=r"5 does not divide images of 56 x 28 pixels; these do: 1, 2, 4, 7, 14, 28"):
        build(ViT(patch=5), DataSpec(shape=(1, 56, 28), classes=("a", "b")))
    with pytest.raises(BadInput, match="takes images"):
        build(ViT(), DataSpec(shape=(10,), classes=("a", "b")))
