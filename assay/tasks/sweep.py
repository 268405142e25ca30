"""The points of a sweep: what `--grid`, `--zip` and a list say, as values for paths of the params."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from assay.plugins.values import BadInput
from assay.tasks.reading import MAX_BYTES, read_yaml, set_path

MAX_POINTS = 5000
MAX_LINES = 20
# How the machine is used is no question of a sweep: its processes and its store are the same for all points.
MACHINE = ("threads", "workers", "store")
RANGE = re.compile(r"(^|,)\s*(-?\d+)\.\.(-?\d+)\s*(?=,|$)")

Axis = tuple[str, list[Any]]


@dataclass(frozen=True)
class Point:
    """One point: its number, from 1, and the value of each path that it sets."""

    number: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The values in a line."""
        return ", ".join(f"{path}={say(value)}" for path, value in self.values.items())

    @property
    def id(self) -> str:
        """A hash of the values."""
        return hashlib.sha256(_text(self.values).encode()).hexdigest()[:16]

    def overrides(self) -> list[str]:
        """The values as `--set` takes them; a value that is set inside another comes after it."""
        ordered = sorted(self.values, key=lambda path: path.count("."))
        return [f"{path}={say(self.values[path])}" for path in ordered]


def say(value: Any) -> str:
    """A value as YAML in a line."""
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


# what was asked


def parse_axis(option: str, text: str) -> Axis:
    """`a.b=v,v` as a path and its values, which are YAML; `0..4` is 0, 1, 2, 3, 4. Raises BadInput."""
    path, sign, values = text.partition("=")
    path = path.strip()
    if not sign or not path or not all(path.split(".")):
        raise BadInput(f"{option} {text!r}: it must read a.b=value,value,...")
    found = read_yaml(f"[{RANGE.sub(lambda m: _numbers(option, path, m), values)}]", f"{option} {path}")
    if not isinstance(found, list) or not found:
        raise BadInput(f"{option} {path}: no values; give at least one, as {path}=value,value,...")
    _refuse_twice([_text(value) for value in found], lambda i: f"{option} {path}: {say(found[i])} stands there twice")
    return path, found


def _numbers(option: str, path: str, match: re.Match[str]) -> str:
    first, last = int(match[2]), int(match[3])
    if first > last:
        raise BadInput(f"{option} {path}: {first}..{last} holds no number: write {last}..{first}")
    if last - first >= MAX_POINTS:
        raise BadInput(f"{option} {path}: {first}..{last} is more than {MAX_POINTS:,} values")
    return match[1] + ",".join(map(str, range(first, last + 1)))


def read_list(path: Path) -> list[dict[str, Any]]:
    """The points of a YAML file: a list of mappings of path to value. Raises BadInput."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"--list {path}: larger than {MAX_BYTES:,} bytes: this is no list of points")
        found = read_yaml(path.read_text(encoding="utf-8"), f"--list {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--list {path}: not readable: {error}") from error
    if not isinstance(found, list):
        raise BadInput(f"--list {path}: a list of mappings `path: value` is expected, not {type(found).__name__}")
    for i, row in enumerate(found, 1):
        if not isinstance(row, dict) or not row:
            raise BadInput(f"--list {path}: item {i} is {say(row)}: a mapping `path: value` is expected")
        for name in row:
            if not all(name.split(".")):
                raise BadInput(f"--list {path}: item {i}: {name!r} is no path of the params")
    return found


def product(grid: Sequence[Axis], zipped: Sequence[Axis], listed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every item of the list with every row of the zipped axes and every combination of the grid's values;
    the last axis of the grid changes fastest. Raises BadInput."""
    listed_paths = dict.fromkeys(path for row in listed for path in row)
    paths = [*listed_paths, *(path for path, _ in (*zipped, *grid))]
    _refuse_twice(paths, lambda i: f"{paths[i]} is swept twice: give each path one axis")
    lengths = {path: len(values) for path, values in zipped}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{path} has {length}" for path, length in lengths.items())
        raise BadInput(f"--zip: the axes move together and need equally many values: {said}")
    rows = [dict(zip(lengths, row, strict=True)) for row in zip(*(values for _, values in zipped), strict=True)]
    factors: list[Sequence[Mapping[str, Any]]] = [part for part in (listed, rows) if part]
    factors += [[{path: value} for value in values] for path, values in grid]
    count = math.prod(len(factor) for factor in factors) if factors else 0
    if count > MAX_POINTS:
        raise BadInput(f"{count:,} points: a sweep has at most {MAX_POINTS:,}")
    if not factors:
        return []
    return [{p: v for part in parts for p, v in part.items()} for parts in itertools.product(*factors)]


def make_points(rows: Sequence[Mapping[str, Any]], overrides: Sequence[str] = ()) -> list[Point]:
    """Numbered points. Raises BadInput where there are none or too many, two are the same, or a path cannot
    be swept."""
    if not rows:
        raise BadInput("no points: give --grid a.b=value,value, --zip or --list")
    if len(rows) > MAX_POINTS:
        raise BadInput(f"{len(rows):,} points: a sweep has at most {MAX_POINTS:,}")
    points = [Point(i, dict(row)) for i, row in enumerate(rows, 1)]
    fixed = {override.partition("=")[0].strip() for override in overrides}
    for path in dict.fromkeys(path for point in points for path in point.values):
        if path.split(".")[0] in MACHINE:
            raise BadInput(f"{path} cannot be swept: it is the same for all points; --set changes it")
        if path in fixed:
            raise BadInput(f"{path} is swept and given by --set: leave one of them out")
    texts = [_text(point.values) for point in points]
    first = {text: point.number for text, point in zip(reversed(texts), reversed(points), strict=True)}
    _refuse_twice(texts, lambda i: f"points {first[texts[i]]} and {i + 1} are the same: {points[i].name}")
    return points


def _refuse_twice(texts: Sequence[str], message: Callable[[int], str]) -> None:
    seen: set[str] = set()
    for i, text in enumerate(texts):
        if text in seen:
            raise BadInput(message(i))
        seen.add(text)


def tree_of(base: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """The raw params of a point. Raises BadInput where a path leads nowhere."""
    tree = copy.deepcopy(dict(base))
    for path in sorted(point.values, key=lambda path: path.count(".")):
        *parents, last = path.split(".")
        set_path(tree, parents, last, copy.deepcopy(point.values[path]), path)
    return tree


# what is wrong


class Faults:
    """What is wrong with the points: each fault once, with the points that have it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.found: dict[str, list[Point]] = {}

    def add(self, point: Point, error: Exception) -> None:
        """Notes each line of an error."""
        for line in str(error).splitlines():
            self.found.setdefault(line, []).append(point)

    def refuse(self) -> None:
        """Raises BadInput, one line a fault, where there are any."""
        if self.found:
            raise BadInput("\n".join(self._lines()))

    def _lines(self) -> Iterator[str]:
        for line, points in itertools.islice(self.found.items(), MAX_LINES):
            more = f" and {len(points) - 1:,} more" if len(points) > 1 else ""
            who = (
                "every point" if len(points) == self.total > 1 else f"point {points[0].number} ({points[0].name}){more}"
            )
            yield f"{who}: {line}"
        if len(self.found) > MAX_LINES:
            yield f"and {len(self.found) - MAX_LINES:,} faults more"
