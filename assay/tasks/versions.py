"""Versions of data sets: `data/<name>` tracked by DVC. The only file that imports DVC."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import yaml
from filelock import FileLock

from assay.plugins.values import AssayError, BadInput

MARKS = ".assay/cache/data"
LOCK_SECONDS = 30.0
LOCK_POLL_SECONDS = 0.2


def dvc_file(project: Path, name: str) -> Path:
    """The `.dvc` file of a data set."""
    return project / "data" / f"{name}.dvc"


def read_dvc(project: Path, name: str) -> dict[str, Any] | None:
    """What the `.dvc` file says, or None where the data set was never added."""
    path = dvc_file(project, name)
    if not path.exists():
        return None
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def versions(project: Path, name: str) -> list[str]:
    """DVC hashes of a data set's versions, oldest first; the last is the one in use."""
    found = read_dvc(project, name)
    if found is None:
        return []
    now = found["outs"][0]["md5"].removesuffix(".dir")
    return [*[v for v in (found.get("meta") or {}).get("versions", []) if v != now], now]


def resolve_rev(project: Path, name: str, rev: str) -> str:
    """The one version whose hash begins with `rev`. Raises BadInput where there is none or several."""
    known = versions(project, name)
    fit = [v for v in known if v.startswith(rev)]
    if len(fit) != 1:
        problem = "is not one of its versions" if not fit else "fits several of its versions"
        shown = ", ".join(v[:8] for v in known) or "none"
        raise BadInput(f"data set '{name}': rev {rev!r} {problem}: {shown}")
    return fit[0]


def source_digest(project: Path, source: Any) -> str | None:
    """The DVC hash of the version that a source names, or None where it was never added.

    Raises BadInput where `data/<name>` was changed since, or was made with other parameters.
    """
    name = source.dataset or source.method_name()
    known = versions(project, name)
    if source.rev:
        return resolve_rev(project, name, source.rev)
    if not known:
        return None
    folder = project / "data" / name
    if folder.is_dir() and folder_hash(project, name) != known[-1]:
        raise BadInput(
            f"data/{name} was changed since it was added: `assay data add {name}` makes it a new version, "
            f"`dvc checkout --force data/{name}.dvc` brings the old one back"
        )
    made = (read_dvc(project, name) or {}).get("meta", {}).get("source")
    wanted = source_meta(source)
    if made and made != wanted and not (made["name"] == wanted["name"] and _only_path_missing(made, wanted)):
        differ = [k for k in dict.fromkeys((*made, *wanted)) if made.get(k) != wanted.get(k) and wanted.get(k) != ""]
        then, now = (", ".join(f"{k}={side.get(k)!r}" for k in differ) for side in (made, wanted))
        raise BadInput(
            f"data/{name} was made with {then}, the params ask for {now}: name an older version that was made so "
            f"(`rev:`, one of {', '.join(v[:8] for v in known)}), give another `dataset:` name, or "
            f"`assay data add {name}` with the new parameters"
        )
    return known[-1]


def _only_path_missing(made: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(made.get(k) == v for k, v in wanted.items() if v != "" and k in made)


def source_meta(source: Any) -> dict[str, Any]:
    """What made a data set: the source and its parameters."""
    params = source.model_dump(mode="json", exclude={"dataset", "rev"})
    return {"name": source.method_name(), **params}


# hashes, as DVC makes them


def folder_hash(project: Path, name: str) -> str:
    """DVC's hash of `data/<name>`: from a memory by size, time and inode, else by reading the files."""
    folder = project / "data" / name
    marks = _marks(folder)
    memory = project / MARKS / f"{name}.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["marks"] == marks:
            return str(known["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = tree_hash(folder)
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"marks": marks, "hash": found}), encoding="utf-8")
    os.replace(temporary, memory)
    return found


def _marks(folder: Path) -> dict[str, list[int]]:
    marks = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = path.stat()
        marks[path.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return marks


def tree_hash(folder: Path) -> str:
    """DVC's directory hash: md5 over the sorted list of files and their md5."""
    paths = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.relative_to(folder).parts)
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(_md5, paths))
    rows = [{"md5": d, "relpath": p.relative_to(folder).as_posix()} for p, d in zip(paths, digests, strict=True)]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# what needs DVC itself


@contextlib.contextmanager
def repository(project: Path) -> Iterator[Any]:
    """DVC's repository of a project, under a lock of our own, set up where there is none. DVC says nothing
    on the screen. Raises AssayError with what DVC has to say against it."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    for name in ("dvc", "dvc_objects", "dvc_data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its notes would stand among the run's own words
    (project / ".assay").mkdir(parents=True, exist_ok=True)
    with FileLock(project / ".assay" / "dvc.lock"):
        try:
            try:
                repo = Repo(str(project))
            except NotDvcRepoError:
                repo = Repo.init(str(project), no_scm=not _in_git(project), subdir=_in_git(project.parent))
            with repo:
                yield repo
        except DvcException as error:
            raise AssayError(f"DVC: {error}") from error


def _in_git(folder: Path) -> bool:
    return any((place / ".git").exists() for place in (folder, *folder.parents))


def patiently(call: Callable[[], Any]) -> Any:
    """What a call of DVC returns. While another DVC process holds DVC's lock it is tried again, for half a
    minute at most; then raises AssayError."""
    from dvc.lock import LockError

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return call()
        except LockError as error:
            if time.monotonic() > deadline:
                raise AssayError("another DVC process is at work: run the same command when it is done") from error
            time.sleep(LOCK_POLL_SECONDS)


def track(project: Path, name: str, meta: dict[str, Any] | None) -> str:
    """Adds `data/<name>` to DVC as a new version and returns its hash. Earlier versions stay named in
    the `.dvc` file and can be used by `rev`."""
    before = versions(project, name)
    kept = (read_dvc(project, name) or {}).get("meta") or {}
    with repository(project) as repo:
        patiently(lambda: repo.add(str(project / "data" / name)))
    path = dvc_file(project, name)
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = found["outs"][0]["md5"].removesuffix(".dir")
    found["meta"] = {
        "source": meta if meta is not None else kept.get("source"),
        "versions": [*[v for v in before if v != now], now],
    }
    temporary = path.with_suffix(".dvc.tmp")
    temporary.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    os.replace(temporary, path)
    return str(now)


def restore(project: Path, name: str) -> bool:
    """Brings `data/<name>` back from DVC's cache or remote, whole or not at all; False where neither has it
    undamaged."""
    from dvc.exceptions import DvcException

    with repository(project) as repo:
        if repo.config.get("core", {}).get("remote"):
            with contextlib.suppress(DvcException):
                patiently(lambda: repo.fetch([str(dvc_file(project, name))]))
    fresh = project / "data" / f".{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        copy_version(project, name, versions(project, name)[-1], fresh)
    except AssayError:
        shutil.rmtree(fresh, ignore_errors=True)
        return False
    os.rename(fresh, project / "data" / name)
    return (project / "data" / name / "dataset.json").exists()


def copy_version(project: Path, name: str, digest: str, target: Path) -> None:
    """Copies the files of a version to `target`: from `data/<name>` where it is that one, else from
    DVC's cache. Raises AssayError where the version is in neither, or is damaged there."""
    folder = project / "data" / name
    if folder.is_dir() and folder_hash(project, name) == digest:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        if tree_hash(target) != digest:
            raise AssayError(
                f"data/{name} was changed since it was added as {digest[:8]}: `dvc checkout --force data/{name}.dvc` "
                f"brings that back, `assay data add {name}` makes a new version"
            )
        return
    cache = project / ".dvc" / "cache" / "files" / "md5"
    if not _listing(cache, digest).exists():
        with repository(project) as repo:
            cache = Path(repo.cache.local.path)  # where `dvc cache dir` or a parent project says
    if not _listing(cache, digest).exists():
        raise AssayError(
            f"version {digest[:8]} of data set '{name}' is not in DVC's cache: `dvc fetch --all-commits` "
            f"brings it from your DVC remote"
        )
    for row in json.loads(_listing(cache, digest).read_text(encoding="utf-8")):
        path = target / row["relpath"]
        if not path.resolve().is_relative_to(target.resolve()):
            raise AssayError(f"data set '{name}' names a file outside its folder: {row['relpath']}")
        if not re.fullmatch("[0-9a-f]{32}", row["md5"]):
            raise AssayError(f"data set '{name}' names a file of the cache that is none: {row['md5']!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the hash below finds what is missing
            shutil.copyfile(_cached(cache, row), path)
    if tree_hash(target) != digest:
        _refuse_damaged(cache, name, digest, target)


def _refuse_damaged(cache: Path, name: str, digest: str, target: Path) -> NoReturn:
    """Raises AssayError with the files of the cache that are not what they are kept as."""
    rows = json.loads(_listing(cache, digest).read_text(encoding="utf-8"))
    there = {row["relpath"] for row in rows if (target / row["relpath"]).exists()}
    wrong = [row for row in rows if row["relpath"] not in there or _md5(target / row["relpath"]) != row["md5"]]
    files = ", ".join(str(_cached(cache, row)) for row in wrong) or _listing(cache, digest)
    raise AssayError(
        f"version {digest[:8]} of data set '{name}' is damaged in DVC's cache: remove {files}, then `dvc fetch "
        f"--all-commits` brings it from your DVC remote, or `assay data add {name}` from its source"
    )


def _cached(cache: Path, row: Mapping[str, str]) -> Path:
    return cache / row["md5"][:2] / row["md5"][2:]


def _listing(cache: Path, digest: str) -> Path:
    return cache / digest[:2] / f"{digest[2:]}.dir"


def commit_stages(project: Path, names: list[str]) -> None:
    """Records the stages' present params, inputs and outputs in `dvc.lock`, all under DVC's lock; entries of
    variants that are gone are removed. Data sets are never given a new version here."""
    from dvc.repo import lock_repo

    with repository(project) as repo:

        def commit() -> None:
            with lock_repo(repo):
                _forget_variants(project / "dvc.lock", names)
                for name in names:
                    repo.commit(f"{project / 'dvc.yaml'}:{name}", force=True, allow_missing=True)

        patiently(commit)


def _forget_variants(lock: Path, names: list[str]) -> None:
    """Removes the entries of variants that are not among `names` from `dvc.lock`."""
    found = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}) if lock.exists() else {}
    stages = found.get("stages") or {}
    gone = [name for name in stages if name.startswith("compress@") and name not in names]
    for name in gone:
        del stages[name]
    if gone:
        temporary = lock.with_suffix(".lock.tmp")
        temporary.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
        os.replace(temporary, lock)
