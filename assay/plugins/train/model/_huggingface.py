"""Networks of the library transformers: what a folder or hub id says of one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from pydantic import JsonValue, model_validator
from transformers import AutoConfig

from assay.plugins.contract import BadInput, DataSpec, Field, Model

WEIGHTS, PICKLED, SEVERAL = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LEFT_OUT = ("id2label", "label2id", "num_labels", "_name_or_path", "transformers_version", "architectures", "auto_map")
"""What of a config says nothing of the architecture; the classes are kept by themselves."""
MEANINGLESS = re.compile(r"LABEL_\d+")
"""A class's name where a checkpoint has none."""


# what a folder or the hub says


def file_of(path: str, revision: str, name: str) -> Path | None:
    """A file of a folder, or of the hub's `path` at a commit (kept in the hub's cache); None where there is none of
    this name. Raises ValueError where there is no such folder, or the hub gives no answer."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if not revision or not HUB_ID.fullmatch(path):
        raise ValueError(
            f"there is no folder '{path}'; of a model on the hub give the id as `path` and as `revision` the commit "
            f"(40 hexadecimal digits), so that the model stays what it is"
        )
    kept = try_to_load_from_cache(path, name, revision=revision)
    if kept is not None:
        return Path(kept) if isinstance(kept, str) else None  # it is known that there is none
    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except LocalEntryNotFoundError as error:  # it is an EntryNotFoundError too, and says that nobody was asked
        raise ValueError(f"'{path}' is no folder here, and {_unreachable(path, revision, error)}") from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"'{path}' is no folder here, and {_unreachable(path, revision, error)}") from error


def _unreachable(path: str, revision: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the hub did not give it ({reason}): check id and revision, or connect to the network; or run "
        f"`hf download {path} --revision {revision or 'COMMIT'} --local-dir FOLDER` where there is one, bring the "
        f"folder here, and give it as `path`"
    )


def read_json(path: Path | None) -> dict[str, Any]:
    """The mapping in a JSON file; {} where there is no file. Raises ValueError where it holds anything else."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no mapping")
    return found


def read_config(path: str, revision: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config of a model without what is not its architecture, and its classes' names in order, () where it has
    none of its own. Raises ValueError where there is no config, or only code of others could build the model."""
    raw = read_json(file_of(path, revision, "config.json"))
    if not raw:
        raise ValueError(f"'{path}' has no config.json: a model of transformers has one (`save_pretrained` writes it)")
    kind = str(raw.get("model_type", ""))
    try:
        AutoConfig.for_model(kind)
    except ValueError as error:
        own = "it brings code of its own (auto_map), which is never run; " if "auto_map" in raw else ""
        raise ValueError(
            f"'{path}' is of model_type {kind!r}, which the installed transformers does not build: {own}a newer "
            f"transformers may, or `module` with a class of yours"
        ) from error
    if "quantization_config" in raw:
        raise ValueError(f"'{path}' holds quantised weights: give the float model, and quantise it by a link")
    names = raw.get("id2label") or {}
    ordered = [str(names[key]) for key in sorted(names, key=int)]
    classes = () if all(map(MEANINGLESS.fullmatch, ordered)) else tuple(ordered)
    return {name: value for name, value in raw.items() if name not in LEFT_OUT}, classes


# the method


class Huggingface(Model):
    """What models of transformers share: where they are from, and their config."""

    path: str = Field(
        "",
        description="folder with config.json (and model.safetensors), relative to the working directory, or a hub id",
    )
    revision: str = Field("", pattern=r"^([0-9a-f]{40})?$", description="the commit, of a hub id")
    config: dict[str, JsonValue] = Field(
        description="the architecture, as in config.json; read from `path` where it is not given"
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def __eq__(self, other: Any) -> bool:
        return type(other) is type(self) and self.model_dump() == other.model_dump()

    @classmethod
    def read(cls, path: str, revision: str) -> dict[str, Any]:
        """The fields that the files at `path` fill. Raises ValueError."""
        return {"config": read_config(path, revision)[0]}

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("config"):
            return value
        path, revision = value.get("path", ""), value.get("revision", "")
        if not isinstance(path, str) or not isinstance(revision, str) or not path:
            raise ValueError("give `path`, a folder with config.json or a hub id, or the `config` itself")
        return {**cls.read(path, revision), **value}

    def pretrained(self) -> Path:
        """The model.safetensors at `path`. Raises BadInput where there is none."""
        try:
            for name in (WEIGHTS, PICKLED, SEVERAL):
                found = file_of(self.path, self.revision, name) if self.path else None
                if found is not None and name == SEVERAL:
                    raise BadInput(
                        f"train.model.path: the weights of '{self.path}' are in several files: load them and "
                        f"`save_pretrained(FOLDER, max_shard_size='100GB')`, then give that folder"
                    )
                if found is not None:
                    return found  # of a pickled one the frame says how to convert it
        except ValueError as error:
            raise BadInput(f"train.model.path: {error}") from error
        raise BadInput(
            f"train.model.path: '{self.path}' has no {WEIGHTS}: `from: pretrained` needs it beside config.json"
        )


def check_classes(own: tuple[str, ...], spec: DataSpec) -> None:
    """Raises BadInput where a checkpoint's classes, if it has names for them, are not the data set's, in order."""
    if not own:
        return
    if len(own) != spec.n_outputs:
        raise BadInput(
            f"train.from: the weights know {len(own)} classes ({_some(own)}), the data set has {spec.n_outputs} "
            f"({_some(spec.classes)}): use data with the same classes, or train anew without `from`"
        )
    wrong = [(i, a, b) for i, (a, b) in enumerate(zip(own, spec.classes)) if a.casefold() != b.casefold()]
    if wrong:
        i, a, b = wrong[0]
        raise BadInput(
            f"train.from: class {i} of the weights is '{a}', of the data set '{b}' ({len(wrong)} such): bring the "
            f"data's classes into that order; where only the spelling differs, say under train.model how the data set "
            f"spells the weights' classes, in their order (`classes: [{_some(own)}]`)"
        )


def _some(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
