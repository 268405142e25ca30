"""Reading `params.yaml` safely, and `--set` overrides of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from assay.plugins.values import BadInput

MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Safe YAML without duplicate keys and aliases, with 1e-3 as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                None, None, "aliases (*name) are not supported: write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(None, None, f"key {name!r} is not text", key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(None, None, f"key '{name}' stands here twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str, name: str) -> Any:
    """The value of a YAML text. Raises BadInput with line and column; tags, aliases and duplicate keys
    are refused."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{name}:{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise BadInput(f"{name}: not readable as YAML: {error}") from error


def read_tree(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw tree of a params file with `--set a.b=c` applied."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES:,} bytes: this is no params file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; `assay init DIR` makes a project, --params names a file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable: {error}") from error
    tree = read_yaml(text, str(path))
    if tree is None:
        raise BadInput(f"{path}: the file is empty; `assay init DIR` writes one to start from")
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: a mapping of sections is expected, not {type(tree).__name__}")
    for override in overrides:
        apply_override(tree, override)
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Applies `a.b=c` in place; list items by number, a method given as a name becomes a mapping."""
    path, sign, text = override.partition("=")
    if not sign or not path.strip():
        raise BadInput(f"--set {override!r}: it must read a.b=value")
    *parents, last = path.strip().split(".")
    set_path(tree, parents, last, read_yaml(text, f"--set {path}"), f"--set {override!r}")


def set_path(tree: Any, parents: Sequence[str], last: str, value: Any, shown: str) -> None:
    """Sets one value deep in a tree of mappings and lists. `shown` is what an error begins with."""
    here = tree
    for i, part in enumerate(parents):
        following = _item(here, part, shown)
        if isinstance(following, str):
            following = {"name": following}
            _put(here, part, following, shown)
        elif following is None:
            if isinstance(here, list):
                raise BadInput(f"{shown}: there is no item {part} in {'.'.join(parents[:i])}")
            following = {}
            _put(here, part, following, shown)
        here = following
    _put(here, last, value, shown)


def _item(here: Any, part: str, shown: str) -> Any:
    if isinstance(here, dict):
        return here.get(part)
    if isinstance(here, list):
        if not part.isdecimal() or int(part) >= len(here):
            raise BadInput(f"{shown}: {part!r} is no position in a list of {len(here)}")
        return here[int(part)]
    raise BadInput(f"{shown}: {part!r} lies below a plain value")


def _put(here: Any, part: str, value: Any, shown: str) -> None:
    if isinstance(here, dict):
        here[part] = value
    else:
        _item(here, part, shown)
        here[int(part)] = value


def without_secrets(text: str) -> str:
    """A text with the passwords of all URIs in it hidden."""
    return re.sub(r"(://[^/\s:@]*):[^/\s]+@", r"\1:***@", text)
