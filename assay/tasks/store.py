"""The store: one folder an artifact, there whole or not at all, checked before it is trusted."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from assay.plugins.values import BadInput
from assay.tasks.disk import flush

MANIFEST = "manifest.json"
RESUME = "resume.safetensors"
WORK = "work"
DAMAGED = "damaged"
KEY = r"[0-9a-f]{32}"


@dataclass(frozen=True)
class Store:
    """Artifacts under `root/<slot>/<key>/`, work under way under `root/work/<key>/`."""

    root: Path

    def folder(self, slot: str, key: str) -> Path:
        """Where the artifact of a cell is, or will be."""
        return self.root / slot / key

    def has(self, slot: str, key: str) -> bool:
        """Whether the artifact is there (its files are not checked)."""
        return (self.folder(slot, key) / MANIFEST).exists()

    def manifest(self, slot: str, key: str) -> dict[str, Any]:
        """The artifact's manifest. Raises ValueError where it is not as it was written."""
        text = (self.folder(slot, key) / MANIFEST).read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        if not isinstance(manifest, dict) or sealed(manifest) != text:
            raise ValueError(f"{self.folder(slot, key) / MANIFEST} was changed since it was written")
        return manifest

    def lock(self, name: str) -> FileLock:
        """The lock of a key, which whoever computes its cell holds, or of another name; released by the
        system when a process dies."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def work(self, key: str) -> Path:
        """Where a cell keeps what it needs to resume after a crash."""
        return self.root / WORK / key

    def damage(self, slot: str, key: str) -> list[str]:
        """Files that are missing, changed or too many, against the manifest; empty where all is well."""
        folder = self.folder(slot, key)
        try:
            expected: Mapping[str, Any] = self.manifest(slot, key)["files"]
            names = {str(p.relative_to(folder)) for p in files_in(folder)} - {MANIFEST}
            wrong = sorted(names ^ set(expected))
            there = sorted(names & set(expected))
            sized = [n for n in there if (folder / n).stat().st_size == expected[n]["size"]]
            digests = digest_files([folder / name for name in sized])
        except (OSError, ValueError, KeyError):
            return [MANIFEST]
        wrong += sorted(set(there) - set(sized))
        return wrong + [n for n, found in zip(sized, digests, strict=True) if found != expected[n]["sha256"]]

    def check(self, slot: str, key: str) -> list[str]:
        """The damage of an artifact; one that is damaged is moved aside, so that it is computed again."""
        wrong = self.damage(slot, key)
        lock = self.lock(key)
        if not wrong or not try_lock(lock):  # who holds the lock is computing it again already
            return wrong
        try:
            wrong = self.damage(slot, key)  # another process may have mended it since
            if wrong and self.folder(slot, key).exists():
                self.set_aside(slot, key)
        finally:
            lock.release()
        return wrong

    def set_aside(self, slot: str, key: str) -> Path:
        """Moves an artifact to `root/damaged/`, for whoever holds its key's lock, and returns where it is now."""
        target = self.root / DAMAGED / f"{key}-{time.time_ns()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.folder(slot, key), target)
        return target

    def begin(self, key: str) -> tuple[Path, Path]:
        """The work folder of a cell and the folder, inside it, that becomes the artifact. What an
        interrupted computation left is kept only where it can resume."""
        work = self.work(key)
        out = work / "artifact"
        self.drop_work(key)
        out.mkdir(parents=True, exist_ok=True)
        for half in out.rglob(".tmp*"):  # a file that safetensors was writing
            half.unlink()
        return work, out

    def drop_work(self, key: str) -> None:
        """Removes a cell's work folder, unless the cell can resume from it."""
        if not (self.work(key) / RESUME).exists():
            shutil.rmtree(self.work(key), ignore_errors=True)

    def commit(self, slot: str, key: str, manifest: Mapping[str, Any]) -> Path:
        """Writes the manifest, flushes every file and renames the folder into its place."""
        out = self.work(key) / "artifact"
        (out / MANIFEST).unlink(missing_ok=True)  # of a process that was killed just before the rename
        paths = sorted(files_in(out))
        digests = digest_files(paths)
        files = {
            str(path.relative_to(out)): {"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        }
        return self.place(out, slot, key, sealed({**manifest, "slot": slot, "key": key, "files": files}))

    def place(self, out: Path, slot: str, key: str, text: str) -> Path:
        """Makes a folder the artifact of a key, for whoever holds its lock: with `text` as its manifest, flushed
        and renamed into its place."""
        (out / MANIFEST).write_text(text, encoding="utf-8")
        flush_all([*files_in(out), *folders_in(out), out])
        target = self.folder(slot, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            self.set_aside(slot, key)
        os.rename(out, target)
        flush(target.parent)
        shutil.rmtree(self.work(key), ignore_errors=True)
        return target

    def tidy(self) -> None:
        """Removes what processes left that were killed after their artifact was in its place."""
        left = list((self.root / WORK).glob("*"))
        done = {key for _, key, _ in self.artifacts()} if left else set()
        for work in left:
            lock = self.lock(work.name)
            if work.name in done and try_lock(lock):
                shutil.rmtree(work, ignore_errors=True)
                lock.release()

    def artifacts(self) -> Iterator[tuple[str, str, Path]]:
        """Slot, key and folder of every artifact whose manifest is as it was written and names this place:
        a shared folder may hold other `manifest.json` that are none of the store's."""
        for slot, key, folder in self.candidates():
            try:
                manifest = self.manifest(slot, key)
            except (OSError, ValueError):
                continue
            if (manifest.get("slot"), manifest.get("key")) == (slot, key):
                yield slot, key, folder

    def candidates(self) -> Iterator[tuple[str, str, Path]]:
        """Slot, key and folder of everything that has a manifest, the store's or not, damaged or not."""
        for manifest in sorted(self.root.glob(f"**/{MANIFEST}")):
            folder = manifest.parent
            parts = folder.relative_to(self.root).parts
            if len(parts) > 1 and parts[0] not in (WORK, DAMAGED):
                yield "/".join(parts[:-1]), folder.name, folder

    def set_aside_before(self) -> Iterator[tuple[str, float, Path]]:
        """Key, time and folder of every artifact that was set aside."""
        for folder in sorted((self.root / DAMAGED).glob("*")):
            key, _, moment = folder.name.partition("-")
            if re.fullmatch(KEY, key) and moment.isdecimal():
                yield key, int(moment) / 1e9, folder

    def unfinished(self) -> Iterator[tuple[str, float, Path]]:
        """Key, time of the last change and folder of every cell whose work is under way or was left."""
        for folder in sorted((self.root / WORK).glob("*")):
            if re.fullmatch(KEY, folder.name):
                times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
                yield folder.name, max(times, default=0.0), folder


def store_root(root: str, project: Path) -> Path:
    """The folder that `store.root` names. Raises BadInput unless it is inside the project, or an absolute
    path to a folder of its own: what `clean` may empty must hold nothing but the store."""
    place, home = (project / root).resolve(), project.resolve()
    if not root.strip() or place == home or home.is_relative_to(place):
        raise BadInput(f"store.root {root!r} is the project itself or holds it: give a folder of its own")
    if not Path(root).is_absolute() and os.path.normpath(root).startswith(".."):
        raise BadInput(f"store.root {root!r} leaves the project: give a folder inside it, or an absolute path")
    return project / root


def sealed(manifest: Mapping[str, Any]) -> str:
    """The text of a manifest, with a digest over all else that it says."""
    plain = json.loads(json.dumps({name: value for name, value in manifest.items() if name != "digest"}))
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return json.dumps({**plain, "digest": digest}, indent=1, sort_keys=True) + "\n"


def files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder."""
    return (path for path in folder.rglob("*") if path.is_file())


def folders_in(folder: Path) -> Iterator[Path]:
    """All folders below a folder."""
    return (path for path in folder.rglob("*") if path.is_dir())


def digest_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4)


def digest_files(paths: list[Path]) -> list[str]:
    """sha256 of each file, several at a time."""
    return list(_threads().map(digest_file, paths))


def flush_all(paths: list[Path]) -> None:
    """Forces files and folders to disk, several at a time: then a journal writes them in one go, in a
    quarter of the time."""
    list(_threads().map(flush, paths))


def try_lock(lock: FileLock) -> bool:
    """Takes a lock if it is free."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
