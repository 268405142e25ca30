"""Networks of transformers, against the library's own loading and preprocessing; what is refused; what they allow."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import BadInput, Batch, Context, Data, DataSpec, Split
from assay.tasks.artifacts import ModelCard, load_model, save_model, step_of
from assay.tasks.export import export_onnx, session
from assay.tasks.given import misfits, weights_file

transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")

IMAGES = DataSpec(shape=(3, 8, 8), classes=("cat", "dog", "elk"))
SEQUENCE = DataSpec(problem="sequence", modality="tokens", shape=(6,), classes=tuple("abcdefghijk"), high=(10.0,))
TOKENS = DataSpec(modality="tokens", shape=(6,), classes=("no", "yes"), high=(10.0,))
NAMES = {0: "cat", 1: "dog", 2: "elk"}
VISION: dict[str, Any] = {
    "vit": transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    ),
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": transformers.ConvNextConfig(
        hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, image_size=8
    ),
}
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LANGUAGE: dict[str, Any] = {
    "gpt2": transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
    "llama": transformers.LlamaConfig(vocab_size=11, max_position_embeddings=8, **SMALL),
    "bert": transformers.BertConfig(vocab_size=11, max_position_embeddings=8, pad_token_id=0, **SMALL),
}


def context(spec: DataSpec) -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=spec)


def saved(folder: Path, auto: Any, config: Any, **more: Any) -> nn.Module:
    """A random checkpoint as transformers writes it, batch norm statistics included; returns the library's module."""
    config = copy.deepcopy(config)
    for name, value in more.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    network = auto.from_config(config)
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point() and "running_var" not in name:
                value.add_(0.3 * torch.randn_like(value))
    network.save_pretrained(folder)
    return auto.from_pretrained(folder).eval()


def vision(folder: Path, kind: str, **more: Any) -> nn.Module:
    names = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}, **more}
    return saved(folder, transformers.AutoModelForImageClassification, VISION[kind], **names)


def brought(name: str, folder: Path, spec: DataSpec) -> tuple[Any, nn.Module]:
    """The method, and its module with the folder's weights, as `from: pretrained` makes it."""
    method = registry.make("train/model", {"name": name, "path": str(folder)})
    torch.manual_seed(1)
    module = method.build(spec, context(spec))
    given = method.weights(load_file(method.pretrained()), spec)
    assert misfits(module, given) == []
    module.load_state_dict(given, strict=False)
    return method, module.eval()


def refusal(folder: Path, spec: DataSpec, name: str = "huggingface", **fields: Any) -> str:
    """What weights are refused with."""
    method = registry.make("train/model", {"name": name, "path": str(folder), **fields})
    with pytest.raises(BadInput) as error:
        method.weights(load_file(method.pretrained()), spec)
    return str(error.value)


# the same numbers as the library


@pytest.mark.parametrize("kind", VISION)
def test_image_logits_are_the_librarys(tmp_path: Path, kind: str) -> None:
    library = vision(tmp_path, kind)
    _, module = brought("huggingface", tmp_path, IMAGES)
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = module(x), library(pixel_values=x).logits
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.05
    assert {"layers", "features", "head"} <= {name for name, _ in module.named_children()}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_next_token_logits_are_the_librarys(tmp_path: Path, kind: str) -> None:
    library = saved(tmp_path, transformers.AutoModelForCausalLM, LANGUAGE[kind], tie_word_embeddings=kind == "gpt2")
    method, module = brought("huggingface_text", tmp_path, SEQUENCE)
    x = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = module(x), library(input_ids=x).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    changed = x.clone()
    changed[:, 4:] = (x[:, 4:] + 1) % 11
    with torch.no_grad():
        torch.testing.assert_close(module(changed)[:, :4], found[:, :4])  # no place sees a later one
    few = SEQUENCE.model_copy(update={"classes": SEQUENCE.classes[:7]})
    assert method.build(few, context(few))(x).shape == (4, 6, 7)
    assert all(isinstance(m, nn.Linear) for n, m in module.named_modules() if n.endswith(("c_attn", "c_fc", "c_proj")))


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_class_logits_of_tokens_are_the_librarys(tmp_path: Path, kind: str) -> None:
    library = saved(tmp_path, transformers.AutoModelForSequenceClassification, LANGUAGE[kind], num_labels=2)
    _, module = brought("huggingface_text", tmp_path, TOKENS)
    x = torch.randint(1, 11, (4, 6), generator=torch.Generator().manual_seed(2))
    if kind == "bert":
        x[:, 4:] = 0  # padding
    with torch.no_grad():
        if kind == "bert":
            expected = library(input_ids=x, attention_mask=(x != 0).long()).logits
        else:  # without a padding token the library takes one example at a time
            expected = torch.cat([library(input_ids=row[None]).logits for row in x])
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def test_files_with_the_names_of_older_versions_load(tmp_path: Path) -> None:
    library = vision(tmp_path, "vit")
    names = list(load_file(tmp_path / "model.safetensors"))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in names  # what the library calls otherwise by now
    assert "vit.encoder.layer.0.attention.attention.query.weight" not in library.state_dict()
    brought("huggingface", tmp_path, IMAGES)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"size": 8, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}, ((8, 8), 0.5, 0.25)),
        ({"size": {"height": 8, "width": 6}, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}, ((8, 6), 0.1, 0.2)),
        (
            {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}, "do_center_crop": True,
             "image_mean": [127.5] * 3, "image_std": [51.0] * 3, "do_rescale": False},
            ((8, 8), 0.5, 0.2),
        ),
        (
            {"size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5},
            ((8, 8), 0.25, 0.25),
        ),
        ({"size": {"shortest_edge": 8}, "do_normalize": False, "image_mean": [0.5]}, ((8, 8), None, None)),
        ({}, (None, None, None)),
    ],
)  # fmt: skip
def test_preprocessing_is_read(written: dict[str, Any], expected: tuple[Any, Any, Any]) -> None:
    from assay.plugins.train.model.huggingface import read_preprocessing

    found = read_preprocessing(written)
    size, mean, std = expected
    assert found.get("size") == size
    assert found.get("mean", (None,))[0] == (None if mean is None else pytest.approx(mean))
    assert found.get("std", (None,))[0] == (None if std is None else pytest.approx(std))


# what does not fit


def prepared(folder: Path) -> DataSpec:
    """Writes a preprocessor's file, and gives the description of data that are as it says."""
    said = {"size": {"height": 8, "width": 8}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    normal = registry.make("prepare/transform", {"name": "normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]})
    data = Data(IMAGES, {"train": Split({"x": np.zeros((2, 3, 8, 8), np.uint8)})})
    return normal.apply(data, normal.fit(data, context(IMAGES))).spec  # type: ignore[no-any-return]


def test_data_of_other_pixels_classes_or_sizes_are_refused(tmp_path: Path) -> None:
    vision(tmp_path, "vit")
    fits = prepared(tmp_path)
    brought("huggingface", tmp_path, fits)
    said = refusal(tmp_path, IMAGES)
    assert "{name: transform/normalize, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4]} under `prepare`" in said
    said = refusal(tmp_path, fits.model_copy(update={"classes": ("cat", "dog")}))
    assert "know 3 classes (cat, dog, elk), the data set has 2 (cat, dog)" in said
    said = refusal(tmp_path, fits.model_copy(update={"classes": ("cat", "elk", "dog")}))
    assert "class 1 of the weights is 'dog', of the data set 'elk' (2 such)" in said
    assert "images of 8 x 8 pixels, the data set's have 16 x 16: give the source `size: 8`" in refusal(
        tmp_path, fits.model_copy(update={"shape": (3, 16, 16)})
    )
    assert "the weights want 3 channels" in refusal(tmp_path, fits.model_copy(update={"shape": (1, 8, 8)}))
    spelled = fits.model_copy(update={"classes": ("Katze", "Hund", "Elch")})
    method = registry.make("train/model", {"name": "huggingface", "path": str(tmp_path), "classes": spelled.classes})
    method.weights(load_file(method.pretrained()), spelled)


def test_without_names_of_its_own_a_head_of_another_size_is_named(tmp_path: Path) -> None:
    vision(tmp_path, "resnet", id2label={i: f"LABEL_{i}" for i in range(5)})
    method = registry.make("train/model", {"name": "huggingface", "path": str(tmp_path)})
    assert method.classes == ()
    given = method.weights(load_file(method.pretrained()), IMAGES)
    said = misfits(method.build(IMAGES, context(IMAGES)), given)
    assert "shape: head.1.weight is [5, 16], the model has [3, 16]" in said


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    vision(tmp_path, "vit")
    state = load_file(tmp_path / "model.safetensors")
    state["classifier.wait"] = state.pop("classifier.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    method = registry.make("train/model", {"name": "huggingface", "path": str(tmp_path)})
    said = misfits(method.build(IMAGES, context(IMAGES)), method.weights(state, IMAGES))
    assert said == [
        "missing: head.weight [3, 16] (it has head.wait)",
        "unexpected: head.wait [3, 16] (the model has head.weight)",
    ]


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    vision(tmp_path, "resnet")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    method = registry.make("train/model", {"name": "huggingface", "path": str(tmp_path)})
    for start in (str(method.pretrained()), str(tmp_path)):
        with pytest.raises(BadInput, match="pickled checkpoint and is not loaded"):
            weights_file(tmp_path, "train", start)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(BadInput, match=r"has no model\.safetensors"):
        method.pretrained()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(BadInput, match="several files"):
        method.pretrained()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "has no config.json"),
        ("no json", "cannot be read as JSON"),
        ("[1]", "holds no mapping"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "evil.py--Evil"}},
            "code of its own (auto_map), which is never",
        ),
        ({"hidden_size": 3}, "of model_type ''"),
        ({"model_type": "resnet", "quantization_config": {"bits": 4}}, "holds quantised weights"),
    ],
)
def test_a_folder_that_is_no_model_of_the_library_is_refused(tmp_path: Path, config: Any, words: str) -> None:
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        registry.make("train/model", {"name": "huggingface", "path": str(tmp_path)}, "train.model")
    assert words in str(error.value)
    assert "train.model" in str(error.value)


def test_what_the_library_cannot_build_for_the_data_is_refused(tmp_path: Path) -> None:
    def build(name: str, spec: DataSpec, **config: Any) -> str:
        with pytest.raises(BadInput) as error:
            registry.make("train/model", {"name": name, "config": config}).build(spec, context(spec))
        return str(error.value)

    assert "no AutoModelForImageClassification of model_type 'gpt2'" in build("huggingface", IMAGES, model_type="gpt2")
    assert "does not divide images of 8 x 8" in build("huggingface", IMAGES, model_type="vit", patch_size=3)
    assert "transformers refuses it" in build("huggingface", IMAGES, model_type="resnet", layer_type="odd")
    small = {"n_embd": 8, "n_head": 1, "n_layer": 1, "bos_token_id": 0, "eos_token_id": 0}
    text = {"model_type": "gpt2", "vocab_size": 5, **small}
    assert "vocab_size is 5, the data set has 11 tokens" in build("huggingface_text", SEQUENCE, **text)
    short = {**text, "vocab_size": 11, "n_positions": 4}
    assert "takes 4 tokens, an example has 6" in build("huggingface_text", SEQUENCE, **short)
    assert "takes tokens" in build("huggingface_text", IMAGES, **text)


def test_a_hub_id_needs_its_commit_and_a_network_or_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from assay.plugins.train.model import _huggingface

    with pytest.raises(ValueError, match="as `revision` the commit"):
        registry.make("train/model", {"name": "huggingface", "path": "someone/tiny"}, "train.model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    there = {"name": "huggingface", "path": "someone/tiny", "revision": commit}
    with pytest.raises(ValueError, match="hf download someone/tiny"):
        registry.make("train/model", there, "train.model")
    kept = tmp_path / "models--someone--tiny"
    vision(kept / "snapshots" / commit, "resnet")
    (kept / ".no_exist" / commit).mkdir(parents=True)  # how the hub's cache remembers what there is not
    (kept / ".no_exist" / commit / "preprocessor_config.json").touch()
    method = registry.make("train/model", there, "train.model")
    assert method.config["model_type"] == "resnet"
    assert method.pretrained().is_file()
    assert _huggingface.file_of("someone/tiny", commit, "config.json") is not None


def test_it_reloads_from_its_params_alone(tmp_path: Path) -> None:
    vision(tmp_path, "vit")
    method, module = brought("huggingface", tmp_path, IMAGES)
    dumped = json.loads(json.dumps({"name": "huggingface", **method.model_dump(mode="json")}))
    for path in tmp_path.iterdir():
        path.unlink()
    again = registry.make("train/model", dumped)
    assert again == method
    assert hash(again) == hash(method)
    other = again.build(IMAGES, context(IMAGES))
    other.load_state_dict(module.state_dict())


# links, maps, export


def data_of(spec: DataSpec) -> Data:
    """A few random examples."""
    rng = np.random.default_rng(0)
    if spec.modality == "tokens":
        x = rng.integers(0, 11, (48, *spec.shape))
        y = rng.integers(0, 11, x.shape) if spec.problem == "sequence" else rng.integers(0, 2, len(x))
    else:
        x, y = rng.random((48, *spec.shape), dtype=np.float32), rng.integers(0, 3, 48)
    split = Split({"x": x, "y": y})
    return Data(spec, {"train": split, "test": split})


CASES = [("huggingface", "vit", IMAGES), ("huggingface", "resnet", IMAGES), ("huggingface_text", "gpt2", SEQUENCE)]
LINKS: list[dict[str, Any]] = [
    {"name": "prune/magnitude", "sparsity": 0.5},
    {"name": "prune/channels", "ratio": 0.5, "round_to": 4},
    {"name": "factorize/svd", "by": "ratio", "keep": 0.3},
    {"name": "quantize/int8_static", "examples": 32},
]


def checkpoint(folder: Path, kind: str) -> None:
    if kind in VISION:
        vision(folder, kind)
    else:
        saved(folder, transformers.AutoModelForCausalLM, LANGUAGE[kind])


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link["name"])
@pytest.mark.parametrize(("name", "kind", "spec"), CASES, ids=[kind for _, kind, _ in CASES])
def test_links_change_it_and_it_reloads_and_exports(
    tmp_path: Path, name: str, kind: str, spec: DataSpec, link: dict[str, Any]
) -> None:
    checkpoint(tmp_path / "hub", kind)
    method, module = brought(name, tmp_path / "hub", spec)
    data, step = data_of(spec), registry.make("compress", link)
    x = data.train.batch(slice(0, 8)).x
    with torch.no_grad():
        before = module(x)
    record = step.fit(module, data, context(spec))
    changed = step.apply(module, record).eval()
    with torch.no_grad():
        after = changed(x)
        assert torch.equal(module(x), before)
    assert not torch.equal(after, before)
    card = ModelCard(spec, step_of(method), links=[step_of(step, record)])
    save_model(tmp_path / "artifact", card, changed.state_dict())
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "artifact")(x), after)
    export_onnx(changed, spec, tmp_path / "model.onnx")
    found = session(tmp_path / "model.onnx", 1)(x.numpy())
    allowed = 0.1 if "int8" in link["name"] else 1e-4  # integer kernels are codes apart here and there
    assert np.abs(found - after.numpy()).max() <= allowed * np.abs(after.numpy()).max()


def test_every_layer_with_weights_is_pruned(tmp_path: Path) -> None:
    checkpoint(tmp_path, "gpt2")
    _, module = brought("huggingface_text", tmp_path, SEQUENCE)
    record = registry.make("compress", LINKS[0]).fit(module, data_of(SEQUENCE), context(SEQUENCE))
    layers = [
        f"layers.h.{i}.{part}" for i in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert set(layers) <= set(record.values["layers"])


def scored(spec: DataSpec, module: nn.Module) -> tuple[Batch, Any]:
    batch = data_of(spec).test.batch(slice(0, 3))
    with torch.no_grad():
        batch = batch.replace(target=module(batch.x).argmax(1))
    return batch, lambda prediction, batch: prediction.gather(1, batch.target[:, None]).squeeze(1)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("saliency", ["gradient", "integrated_gradients", "grad_cam"])
def test_maps_explain_it(tmp_path: Path, kind: str, saliency: str) -> None:
    vision(tmp_path, kind)
    _, module = brought("huggingface", tmp_path, IMAGES)
    batch, score = scored(IMAGES, module)
    method = registry.make("attribute/saliency", saliency)
    maps = method.attribute(module, batch, score, context(IMAGES)).values
    assert maps.shape == (3, 8, 8)
    assert maps.abs().sum() > 0


def test_features_are_the_heads_inputs(tmp_path: Path) -> None:
    from assay.plugins.contract import patch, tap

    vision(tmp_path, "vit")
    _, module = brought("huggingface", tmp_path, IMAGES)
    x = data_of(IMAGES).test.batch(slice(0, 3)).x
    with torch.no_grad(), tap(module, ["features"]) as seen:
        logits = module(x)
        assert torch.equal(module.get_submodule("head")(seen["features"]), logits)
        with patch(module, {"features": torch.zeros_like}):
            assert torch.equal(module(x), module.get_parameter("head.bias").expand(3, 3))
        bare = copy.deepcopy(module)
        bare.head = nn.Identity()
        assert torch.equal(bare(x), seen["features"])
