"""Which cells of a plan must run, and why."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from assay.tasks.cells import Cell, Ref
from assay.tasks.plan import Plan
from assay.tasks.store import MANIFEST, Store


class Work(Protocol):
    """Cells by key, in an order in which they can be computed, and where the answers are that they are for: a
    plan, or all plans of a sweep."""

    @property
    def cells(self) -> Mapping[str, Cell]: ...

    @property
    def answers(self) -> Iterable[Ref]: ...


@dataclass(frozen=True)
class Status:
    """Whether a cell is a HIT or must RUN, and why."""

    cell: Cell
    hit: bool
    why: str


def statuses(work: Work, store: Store, last: Mapping[str, Any], force: Sequence[str] = ()) -> list[Status]:
    """The state of every cell. `last` maps labels to the slot and key of the last run's cell; a damaged
    artifact is set aside and named."""
    found = []
    for cell in work.cells.values():
        forced = next((p for p in force if fnmatch.fnmatch(cell.label, p) or fnmatch.fnmatch(cell.key, p)), None)
        if forced is not None:
            found.append(Status(cell, False, f"--force {forced}"))
        elif not store.has(*_place(cell)):
            found.append(Status(cell, False, _why(cell, store, last)))
        else:
            found.append(Status(cell, True, ""))
    return found


def verify(status: Sequence[Status], store: Store) -> list[Status]:
    """Hits checked against their manifests; what is damaged is set aside and must run."""
    checked = []
    for item in status:
        wrong = store.check(*_place(item.cell)) if item.hit else []
        if wrong:
            item = Status(item.cell, False, f"damaged, set aside: {', '.join(wrong[:3])}")
        checked.append(item)
    return checked


def _place(cell: Cell) -> tuple[str, str]:
    return cell.slot, cell.key


def _why(cell: Cell, store: Store, last: Mapping[str, Any]) -> str:
    if str(cell.ingredients.get("input.digest", "")).startswith("unseen:"):
        return "data never seen"
    before = last.get(cell.label)
    if before is None:
        return "never computed"
    if before == [cell.slot, cell.key]:
        return "not in the store any more"
    if not store.has(*before):
        return "changed; what it was before is not in the store any more"
    try:
        then = store.manifest(*before)["ingredients"]
    except (OSError, ValueError):
        return "changed; the manifest of what it was before is damaged"
    return "; ".join(list(differences(then, cell.ingredients))[:4])


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two sets of ingredients, in words, causes before consequences."""
    names = sorted({*before, *now}, key=lambda n: (n.startswith("input."), n.startswith(("code.", "version.")), n))
    for name in names:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        kind, _, rest = name.partition(".")
        if kind == "code":
            yield f"source of {rest} {'changed' if old and new else 'is new' if new else 'is gone'}"
        elif kind == "input":
            yield "the data changed" if rest == "digest" else f"its input '{rest}' changed"
        elif kind in ("version", "env", "machine"):
            yield f"{rest} {old} → {new}"
        else:
            yield f"{name.replace('.recipe', '')} {'none' if old is None else old} → {'none' if new is None else new}"


def needed(work: Work, status: Sequence[Status], only: str | None = None) -> list[str]:
    """Keys of the cells to compute, in order: what the answers (of the stage `only`, where one is named)
    need and the store does not have. What only a finished cell needed is computed again where it was damaged."""
    missing = {s.cell.key for s in status if not s.hit}
    waiting = [ref.key for ref in work.answers if only is None or work.cells[ref.key].stage == only]
    again = ("--force",) if only else ("--force", "damaged")
    waiting += [s.cell.key for s in status if s.why.startswith(again)]
    wanted: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key in missing and key not in wanted:
            wanted.add(key)
            waiting.extend(ref.key for ref in work.cells[key].inputs.values())
    return [s.cell.key for s in status if s.cell.key in wanted]


def assume(status: Sequence[Status], there: Set[Ref]) -> list[Status]:
    """The states as they will be once everything that is `there`, in a remote, has been brought."""
    return [Status(s.cell, s.hit or s.cell.ref in there, s.why) for s in status]


def wanted(work: Work, status: Sequence[Status], there: Set[Ref], only: str | None = None) -> list[Ref]:
    """What must be brought of all that is `there`: answers (of the stage `only`, where one is named), and
    inputs of the cells that are to be computed."""
    todo = needed(work, assume(status, there), only)
    inputs = {ref for key in todo for ref in work.cells[key].inputs.values()}
    answers = {ref for ref in work.answers if only is None or work.cells[ref.key].stage == only}
    return [s.cell.ref for s in status if not s.hit and s.cell.ref in there & (inputs | answers)]


def read_last(store: Store) -> dict[str, Any]:
    """Label → slot and key of the cells of earlier runs."""
    try:
        found: dict[str, Any] = json.loads((store.root / "last.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write_last(plan: Plan, store: Store) -> None:
    """Remembers this run's cells by label, and marks their artifacts as used now."""
    mark_used(plan.cells.values(), store)
    with store.lock("last"):
        rows = {**read_last(store), **{cell.label: [cell.slot, cell.key] for cell in plan.cells.values()}}
        temporary = store.root / "last.tmp"
        temporary.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(temporary, store.root / "last.json")


def mark_used(cells: Iterable[Cell], store: Store) -> None:
    """Marks the artifacts of cells as used now."""
    for cell in cells:
        if store.has(cell.slot, cell.key):
            os.utime(store.folder(cell.slot, cell.key) / MANIFEST)
