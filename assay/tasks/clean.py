"""Which artifacts of the store may go."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from assay.plugins.values import AssayError
from assay.tasks.store import MANIFEST, Store, files_in, try_lock

DAY = 86_400.0


@dataclass(frozen=True, order=True)
class Item:
    """A folder that the store holds for a key, when it was last used, and its size in bytes. `slot` is
    empty for what was set aside as damaged and for unfinished work."""

    used: float
    folder: Path
    key: str
    slot: str
    size: int


def registered_keys(project: Path) -> set[str]:
    """Keys of the model artifacts that were registered."""
    path = project / ".assay" / "registered.json"
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()


def needed_by(store: Store, keys: set[str]) -> set[str]:
    """The keys and everything that those artifacts were computed from."""
    places = {key: slot for slot, key, _ in store.candidates()}  # a damaged manifest must be met, not passed by
    found: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in found or key not in places:
            continue
        found.add(key)
        try:
            inputs = store.manifest(places[key], key)["inputs"]
        except (OSError, ValueError) as error:
            raise AssayError(f"{error}: run the pipeline again, which mends it, before cleaning") from error
        waiting.extend(key for _, key in inputs.values())
    return found


def held(store: Store) -> list[Item]:
    """Everything in the store: artifacts, what was set aside as damaged, and unfinished work."""
    rows = [((folder / MANIFEST).stat().st_mtime, folder, key, slot) for slot, key, folder in store.artifacts()]
    rows += [(used, folder, key, "") for key, used, folder in (*store.set_aside_before(), *store.unfinished())]
    return [Item(*row, sum(path.stat().st_size for path in files_in(row[1]))) for row in rows]


def removable(store: Store, project: Path, older_than: float | None, keep_gb: float | None) -> list[Item]:
    """What may go, longest unused first: what no run used for `older_than` days (None: no limit), and then as
    much as it takes to get down to `keep_gb` (None: no limit). What a registered model needs stays."""
    kept = needed_by(store, registered_keys(project))
    items = held(store)
    total = sum(item.size for item in items)
    gone = []
    now = time.time()
    for item in sorted(item for item in items if not item.slot or item.key not in kept):
        old = older_than is not None and now - item.used > older_than * DAY
        big = keep_gb is not None and total > keep_gb * 1e9
        if old or big:
            gone.append(item)
            total -= item.size
    return gone


def remove(store: Store, item: Item) -> bool:
    """Removes one, unless a process holds its key: then a cell is at work on it."""
    lock = store.lock(item.key)
    if not try_lock(lock):
        return False
    try:
        # An artifact leaves its place in one step: a run under way sees it whole or not at all.
        shutil.rmtree(store.set_aside(item.slot, item.key) if item.slot else item.folder)
    except FileNotFoundError:  # it finished, or another process removed it
        return False
    finally:
        lock.release()
    return True
