"""The store's remote: artifacts behind fsspec that machines share, each with its own store as the cache.

An artifact is `<url>/<slot>/<key>/manifest.json` and its files beside it in a folder named by that manifest's
digest. So two machines that send one artifact at the same time never write into each other's files, and
whichever manifest is there names files that are whole.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from assay.plugins.values import AssayError, BadInput
from assay.tasks.cells import Ref
from assay.tasks.disk import is_full
from assay.tasks.reading import without_secrets
from assay.tasks.store import MANIFEST, Store, digest_files, sealed, try_lock

URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
FOLDERS = ("file://", "local://")
MARKER = "assay-store.json"
FORMAT = {"format": 1}
CONNECTIONS = 16
ATTEMPTS = 2  # at bringing an artifact: a connection may have been cut
INSTALL = {"s3": "pip install 'assay[s3]'", "s3a": "pip install 'assay[s3]'"}


class RemoteFailed(AssayError):
    """The remote cannot be read or written."""


class Remote:
    """Artifacts at `url`. Safe to use from several threads. Raises RemoteFailed where it cannot be used.

    `notes` says, for people, what was found to be damaged.
    """

    def __init__(self, url: str, store: Store):
        self.url, self.store = url.rstrip("/"), store
        self.fs, self.root = _filesystem(self.url)
        self.folder = self.url.startswith(FOLDERS)
        self.notes: list[str] = []
        self._there: set[Ref] = set()
        self._marked = threading.Lock()

    def ready(self) -> None:
        """Finds out, before anything is computed, whether the remote can be used; a new one gets its marker."""
        with self._marked:
            text = self.read(MARKER)
            if text is None:
                self.write(MARKER, json.dumps(FORMAT))
            elif text != json.dumps(FORMAT):
                raise RemoteFailed(f"store.remote {self.url}: {MARKER} says {text[:80]}: this Assay reads {FORMAT}")

    def present(self, refs: Iterable[Ref]) -> set[Ref]:
        """Which of some artifacts are there."""
        asked = list(dict.fromkeys(refs))
        found = {ref for ref, manifest in zip(asked, _threads().map(self._manifest, asked)) if manifest is not None}
        self._there |= found
        return found

    def fetch(self, ref: Ref) -> bool:
        """Whether an artifact is in the local store in the end: it was, or it was brought and its files are as
        its manifest says. False also where another process holds its key."""
        if self.store.has(ref.slot, ref.key):
            return True
        lock = self.store.lock(ref.key)
        if not try_lock(lock):
            return False
        try:
            return self.store.has(ref.slot, ref.key) or self._bring(ref)
        finally:
            lock.release()

    def _bring(self, ref: Ref) -> bool:
        wrong: list[str] = []
        for _ in range(ATTEMPTS):
            manifest = self._manifest(ref)
            if manifest is None:
                return False
            wrong = self._download(ref, manifest)
            if not wrong:
                self._there.add(ref)
                return True
        self.drop(ref)
        self.notes.append(f"{ref.slot}/{ref.key} was damaged in the remote ({', '.join(wrong[:3])}) and taken out")
        return False

    def _download(self, ref: Ref, manifest: Mapping[str, Any]) -> list[str]:
        """Brings an artifact; returns the files that are missing or not as they should be."""
        incoming = self.store.work(ref.key) / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        names = sorted(manifest["files"])
        for folder in {(incoming / name).parent for name in names} | {incoming}:
            folder.mkdir(parents=True, exist_ok=True)
        place = f"{self._place(ref)}/{manifest['digest']}"
        try:
            there = list(_threads().map(lambda name: self._get(f"{place}/{name}", incoming / name), names))
            wrong = [name for name, found in zip(names, there) if not found]
            if not wrong:
                digests = digest_files([incoming / name for name in names])
                wrong = [n for n, digest in zip(names, digests) if digest != manifest["files"][n]["sha256"]]
            if not wrong:
                self.store.place(incoming, ref.slot, ref.key, sealed(manifest))
            return wrong
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
            self.store.drop_work(ref.key)

    def push(self, ref: Ref) -> None:
        """Sends an artifact of the local store, unless a valid one is there: files first, the manifest last."""
        if ref in self._there:
            return
        if self._manifest(ref) is None:
            manifest = self.store.manifest(ref.slot, ref.key)
            folder = self.store.folder(ref.slot, ref.key)
            place = f"{self._place(ref)}/{manifest['digest']}"
            list(_threads().map(lambda name: self._put(folder / name, f"{place}/{name}"), manifest["files"]))
            if self._manifest(ref) is None:
                self.write(f"{ref.slot}/{ref.key}/{MANIFEST}", sealed(manifest))
        self._there.add(ref)

    def drop(self, ref: Ref) -> None:
        """Takes an artifact out: its manifest goes, so that it is not there any more."""
        self._there.discard(ref)
        self.remove(f"{ref.slot}/{ref.key}/{MANIFEST}")

    def _place(self, ref: Ref) -> str:
        return f"{self.root}/{ref.slot}/{ref.key}"

    def _manifest(self, ref: Ref) -> dict[str, Any] | None:
        """A manifest as it was written, or None where there is none that is valid."""
        text = self.read(f"{ref.slot}/{ref.key}/{MANIFEST}")
        try:
            manifest = json.loads(text or "null")
            valid = isinstance(manifest, dict) and sealed(manifest) == text
            valid = valid and (manifest["slot"], manifest["key"]) == (ref.slot, ref.key)
            return manifest if valid and all(map(_stays_inside, manifest["files"])) else None
        except (ValueError, KeyError, TypeError):
            return None

    # single files

    def read(self, name: str) -> str | None:
        """The text of a file below the URL, or None where there is none."""
        with self._in_words():
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{name}")).decode(errors="replace")
            except FileNotFoundError:
                return None

    def write(self, name: str, text: str) -> None:
        """Writes a file below the URL, whole or not at all: object stores do so, a folder needs a rename."""
        path = f"{self.root}/{name}"
        with self._in_words():
            if not self.folder:
                self.fs.pipe_file(path, text.encode())
                return
            temporary = f"{path}.{uuid.uuid4().hex}.tmp"
            self.fs.pipe_file(temporary, text.encode())
            os.replace(temporary, path)

    def remove(self, name: str) -> None:
        """Removes a file below the URL, if it is there."""
        with self._in_words(), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    def clear(self, folder: str) -> None:
        """Removes a folder below the URL with all that is in it, if it is there."""
        with self._in_words(), contextlib.suppress(FileNotFoundError):
            self.fs.rm(f"{self.root}/{folder}", recursive=True)

    def _get(self, source: str, target: Path) -> bool:
        with self._in_words():
            try:
                self.fs.get_file(source, str(target))
            except FileNotFoundError:
                return False
        return target.is_file()

    def _put(self, source: Path, target: str) -> None:
        with self._in_words():
            self.fs.put_file(str(source), target)

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Whatever a storage library raises as one message, without passwords."""
        try:
            yield
        except OSError as error:
            if is_full(error):  # here, not there
                raise
            missing = "there is no such place: " if isinstance(error, FileNotFoundError) else ""
            raise RemoteFailed(f"store.remote {self.url}: {missing}{without_secrets(str(error))}") from error
        except Exception as error:
            text = without_secrets(f"{type(error).__name__}: {error}")
            raise RemoteFailed(f"store.remote {self.url}: {text}") from error


def open_remote(url: str, store: Store) -> Remote | None:
    """The remote that `store.remote` names, or None where it is empty. Asks it nothing. Raises BadInput."""
    return Remote(url, store) if url else None


def _filesystem(url: str) -> tuple[Any, str]:
    if without_secrets(url) != url:
        raise BadInput("store.remote holds a password: give it by environment, as the storage's library reads it")
    if not URL.fullmatch(url):
        raise BadInput(f"store.remote {url!r}: give a URL, as s3://bucket/prefix or file:///srv/shared")
    import fsspec
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    # What another machine wrote a moment ago must be seen.
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(FOLDERS):
        options["auto_mkdir"] = True
    try:
        fs, root = url_to_fs(url, **options)
    except ImportError as error:
        how = INSTALL.get(protocol, str(error))
        raise BadInput(f"store.remote {url}: a library for {protocol}:// is missing: {how}") from error
    except ValueError as error:
        known = ", ".join(sorted(name for name in fsspec.available_protocols() if name.isalnum()))
        raise BadInput(f"store.remote {url}: {error}; fsspec knows {known}") from error
    return fs, str(root).rstrip("/")


def _stays_inside(name: str) -> bool:
    """Whether a file's name, which another machine gave, leads to a place inside the artifact."""
    parts = PurePosixPath(name).parts
    return bool(parts) and "\\" not in name and not any(part in ("/", "..") for part in parts) and name != MANIFEST


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONNECTIONS)
