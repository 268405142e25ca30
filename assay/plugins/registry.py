"""Finding methods: by entry points, file names and source text first; importing only what is used.

Entry points of group `assay.plugins` map a dotted slot (`train.optimizer`) to a package whose files are
the methods of that slot. A method's id is the slot with slashes and the file's name:
`train/optimizer/adamw`.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

GROUP = "assay.plugins"


class UnknownMethod(Exception):
    """No such method, or one that cannot be used; the text says what would be right. Exit code 2."""

    code = 2


@dataclass(frozen=True)
class Entry:
    """A method that was found, not imported."""

    id: str
    module: str
    file: Path
    dist: str
    version: str

    @property
    def slot(self) -> str:
        """The id without the method's own name."""
        return self.id.rsplit("/", 1)[0]

    @property
    def title(self) -> str:
        """The card's title, read from the source without importing it."""
        return source_title(self.file)

    @property
    def broken(self) -> str:
        """Why its file does not even parse, or '' where it does."""
        try:
            ast.parse(self.file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            return f"its file does not parse: {error}"
        return ""


@dataclass(frozen=True)
class Index:
    """All methods by id, and the packages that could not be listed, with the reason."""

    entries: Mapping[str, Entry]
    broken_packages: Mapping[str, str] = field(default_factory=dict)
    claimed_twice: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @functools.cached_property
    def by_module(self) -> dict[str, str]:
        """Each method's id by the module that defines it."""
        return {entry.module: entry.id for entry in self.entries.values()}


def source_title(file: Path) -> str:
    """The literal `title` in `card = Card(title=...)`, or '' where there is none."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, OSError, UnicodeDecodeError):
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Card":
            for keyword in node.keywords:
                if keyword.arg == "title":
                    try:
                        return str(ast.literal_eval(keyword.value))
                    except ValueError:
                        return ""
    return ""


def package_folder(package: str) -> Path:
    """The folder of a package, found without importing the package or its parents.

    Raises FileNotFoundError where there is none.
    """
    top, _, rest = package.partition(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"no package '{top}' is installed")
    for location in spec.submodule_search_locations:
        folder = Path(location, *rest.split(".")) if rest else Path(location)
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"package '{top}' has no folder '{rest}'")


@functools.cache
def index() -> Index:
    """Lists every method of every installed distribution. Imports nothing of theirs."""
    entries: dict[str, Entry] = {}
    broken: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    seen: set[tuple[str, str]] = set()
    for point in importlib.metadata.entry_points(group=GROUP):
        if (point.name, point.value) in seen:
            continue
        seen.add((point.name, point.value))
        dist = point.dist.name if point.dist else "?"
        version = point.dist.version if point.dist else "?"
        try:
            files = sorted(package_folder(point.value).glob("*.py"))
        except (FileNotFoundError, ImportError, ValueError) as error:
            broken[f"{point.name} of {dist}"] = str(error)
            continue
        for file in files:
            if file.stem.startswith("_"):
                continue
            id = f"{point.name.replace('.', '/')}/{file.stem}"
            if id in entries:
                twice[id] = (entries[id].dist, dist)
                continue
            entries[id] = Entry(id, f"{point.value}.{file.stem}", file, dist, version)
    return Index(dict(sorted(entries.items())), broken, twice)


def find(id: str) -> Entry:
    """The entry of a method. Raises UnknownMethod with close matches, or both claimants."""
    found = index()
    if id in found.claimed_twice:
        first, second = found.claimed_twice[id]
        raise UnknownMethod(f"method '{id}' is claimed by two distributions, {first} and {second}: uninstall one")
    if id not in found.entries:
        slot, _, name = id.rpartition("/")
        prefix = _common_position(id) if slot else ""
        inside = [known for known in found.entries if known.startswith(prefix)]
        close = [k for k in inside if k.rsplit("/", 1)[1] == name]
        close += [k for k in difflib.get_close_matches(id, inside, n=3, cutoff=0.5) if k not in close]
        names = [c.removeprefix(prefix) for c in close]
        hint = f"; did you mean {' or '.join(names)}?" if close else "; `assay methods list` shows all"
        where = f" in {prefix.rstrip('/')}" if prefix else ""
        raise UnknownMethod(f"there is no method '{id.removeprefix(prefix)}'{where}{hint}")
    return found.entries[id]


def _common_position(id: str) -> str:
    """The part of an id that params.yaml does not spell: `compress/` of `compress/prune/magnitude`."""
    parts = id.split("/")
    return parts[0] + "/" if parts[0] in ("prepare", "compress", "evaluate") else "/".join(parts[:-1]) + "/"


def load(id: str) -> Any:
    """The class of a method, importing its one file.

    Raises UnknownMethod where it is unknown, broken, or needs a library that is not installed (the text
    gives the install command).
    """
    from assay.plugins.contract import Method

    entry = find(id)
    try:
        module = importlib.import_module(entry.module)
    except ImportError as error:
        raise UnknownMethod(_missing(entry, error)) from error
    except Exception as error:
        raise UnknownMethod(f"method '{id}' of {entry.dist} is broken: {type(error).__name__}: {error}") from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1 or "card" not in vars(found[0]):
        raise UnknownMethod(f"'{entry.file}' must define exactly one method with a card, it has {len(found)}")
    cls = found[0]
    if not entry.slot.startswith(cls.slot):
        raise UnknownMethod(f"'{id}' is a {cls.slot} method in the folder of {entry.slot}")
    return cls


def _missing(entry: Entry, error: ImportError) -> str:
    extra = _literal_extra(entry.file)
    name = (error.name or "").split(".")[0]
    if extra:
        return (
            f"method '{entry.id}' needs a library that is not installed ({name}): pip install '{entry.dist}[{extra}]'"
        )
    return f"method '{entry.id}' of {entry.dist} is broken: {error}"


def _literal_extra(file: Path) -> str:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "extra" and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return ""


def method_id(method: Any) -> str:
    """The id of a method or its class."""
    cls: Any = method if isinstance(method, type) else type(method)
    return index().by_module.get(cls.__module__, f"{cls.slot}/{cls.method_name()}")


def make(prefix: str, value: str | Mapping[str, Any], key: str = "") -> Any:
    """A method from its `params.yaml` entry: a name, or a mapping with `name` and parameters.

    `prefix` is the position's slot (`train/optimizer`, or `compress`, whose names have a family). Raises
    UnknownMethod where the name is wrong and ValueError, one line a fault, where a parameter is.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError(f"{key}: {value!r} is no method: give a name, or a mapping with `name` and parameters")
    id = f"{prefix}/{value['name'].removeprefix(prefix + '/')}"
    try:
        cls = load(id)
    except UnknownMethod as error:
        raise UnknownMethod(f"{key}: {error}" if key else str(error)) from error
    try:
        return cls(**{k: v for k, v in value.items() if k != "name"})
    except TypeError as error:
        raise ValueError(f"{key}: {error}") from error
    except ValidationError as error:
        raise ValueError("\n".join(fault_lines(error, key or id, cls))) from error


def fault_lines(error: ValidationError, key: str, cls: Any) -> list[str]:
    """One line for each fault of a validation: key, value, what would be right."""
    lines = []
    for fault in error.errors():
        name = ".".join(str(part) for part in fault["loc"])
        full = f"{key}.{name}" if name else key
        if fault["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, list(cls.model_fields), n=1)
            known = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(cls.model_fields) or 'none'}"
            lines.append(f"{full}: unknown parameter; {known}")
        elif fault["type"] == "missing":
            lines.append(f"{full}: missing; {cls.model_fields[name].description or 'it has no default'}")
        else:
            quote = "; put it in quotes" if fault["type"] == "string_type" else ""
            lines.append(f"{full}: {fault['input']!r} is not valid: {fault['msg']}{quote}")
    return lines
