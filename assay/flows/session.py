"""A project with its params, plan and store, and the result of running it."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.plugins.values import BadInput
from assay.tasks import cells, settings
from assay.tasks import params as p
from assay.tasks.plan import Plan, make_plan
from assay.tasks.reading import apply_override, read_tree, without_secrets
from assay.tasks.remote import Remote, open_remote
from assay.tasks.status import Status, Work, assume, read_last, statuses, verify, wanted
from assay.tasks.store import Store, store_root, try_lock
from assay.tasks.summary import Summary

GATE_FAILED = 3
AT_ONCE = 4  # artifacts on their way from or to a remote


@dataclass
class Session:
    """A project with its params, plan and store."""

    project: Path
    params: p.Params
    plan: Plan
    store: Store
    tree: Mapping[str, Any]
    params_file: Path | None
    command: str
    overrides: Sequence[str] = ()
    remote: Remote | None = None

    @property
    def downloads(self) -> Path:
        """Where sources keep what they fetched."""
        return Path(os.environ.get("ASSAY_DOWNLOADS") or self.project / ".assay" / "downloads")

    @property
    def notes(self) -> list[str]:
        """What to say to people of the store's remote."""
        return self.remote.notes if self.remote is not None else []

    @property
    def workers(self) -> int:
        """How many cells compute at once."""
        return self.params.workers or max(1, (os.cpu_count() or 1) // self.params.threads)


@dataclass
class Result:
    """A finished run. `exit_code` is 0, or 3 where a gate failed."""

    pipeline: str
    summary: Summary
    report: Path
    computed: int
    total: int
    seconds: float
    overhead: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether every gate holds for every variant."""
        return self.summary.passed

    @property
    def exit_code(self) -> int:
        """0, or 3 where a gate failed."""
        return 0 if self.passed else GATE_FAILED


def resolve_device(wanted: str, elsewhere: str | None = None) -> str:
    """`auto` as cuda where there is one; or the device that the machines `elsewhere` have. Raises BadInput
    where another is asked for."""
    import torch

    if elsewhere is not None:
        if wanted not in ("auto", elsewhere):
            raise BadInput(f"device: {wanted!r}, and the pool was deployed for {elsewhere!r}: use 'auto'")
        return elsewhere
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInput("device: 'cuda' is not available here: use 'auto' or 'cpu'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def device_of(params: p.Params, elsewhere: str | None = None) -> str:
    """The device of a run, as `resolve_device`. Raises BadInput too where a training wants more GPUs than there are
    here; what machines `elsewhere` have is known to them."""
    import torch

    device = resolve_device(params.device, elsewhere)
    if device == "cpu" or elsewhere is not None:
        return device
    there = torch.cuda.device_count()
    for key, train in [("train", params.train), *((f"trainings.{n}", t) for n, t in params.trainings.items())]:
        if train.devices > max(1, there):
            raise BadInput(f"{key}.devices: {train.devices} GPUs are wanted, and this machine has {there}")
    return device


def open_session(
    params: str | Path | Mapping[str, Any] | p.Params = "params.yaml",
    overrides: Sequence[str] = (),
    project: str | Path | None = None,
    command: str | None = None,
    device: str | None = None,
) -> Session:
    """Reads and checks the params and plans the run, for `device` where the machines that compute it are
    others. Reads no data. Raises BadInput."""
    cells.refresh()
    tree, file = raw_tree(params, overrides)
    root = project_of(file, project)
    settings.apply(root)
    checked = params if isinstance(params, p.Params) and not overrides else p.validate(tree, str(file or "params"))
    store = Store(store_root(checked.store.root, root))
    remote = open_remote(checked.store.remote, store)
    plan = plan_with_cache(checked, root, device_of(checked, device))
    return Session(root, checked, plan, store, tree, file, shown_command(command), overrides, remote)


def raw_tree(
    params: str | Path | Mapping[str, Any] | p.Params, overrides: Sequence[str]
) -> tuple[dict[str, Any], Path | None]:
    """The raw tree of params, unchecked, and their file where they are one. Raises BadInput."""
    if not isinstance(params, p.Params | Mapping):
        return read_tree(Path(params), overrides), Path(params)
    tree = params.model_dump(mode="json") if isinstance(params, p.Params) else copy.deepcopy(dict(params))
    for override in overrides:
        apply_override(tree, override)
    return tree, None


def project_of(params: object, project: str | Path | None) -> Path:
    """The project's folder: the one that is given, else that of the params file, else the working directory."""
    file = Path(params) if isinstance(params, str | Path) else None
    return Path(project or (file.resolve().parent if file else Path.cwd())).resolve()


def shown_command(command: str | None) -> str:
    """The command as it is kept with what it computed."""
    return without_secrets(command or " ".join(["assay", *sys.argv[1:]]))


def plan_with_cache(params: p.Params, root: Path, device: str) -> Plan:
    """A plan, with the memory of code digests kept between processes."""
    with code_memory(root):
        return make_plan(params, root, device)


@contextlib.contextmanager
def code_memory(root: Path) -> Iterator[None]:
    """Keeps the memory of code digests between processes, for the plans that are made in the block."""
    from assay.tasks import closure

    cells.refresh()
    memory = root / ".assay" / "cache" / "code.json"
    closure.load_cache(memory)
    before = len(closure._sources)
    yield
    if len(closure._sources) != before or not memory.exists():
        closure.save_cache(memory)


def materialise(session: Session) -> None:
    """Brings in every data set that is needed and not there, then plans again with its digest."""
    from assay.tasks import data

    fetched = False
    for steps in (session.params.prepare, *session.params.datasets.values()):
        source = steps[0]
        name = source.dataset or source.method_name()
        cell = next(c for c in session.plan.cells.values() if c.slot == "prepare/source" and c.spec["dataset"] == name)
        if not session.store.has(cell.slot, cell.key):
            data.materialise(session.project, source, session.downloads)
            fetched = True
    if fetched:
        session.plan = plan_with_cache(session.params, session.project, session.plan.env.device)


def check_hits(session: Session, force: Sequence[str]) -> list[Status]:
    """The state of every cell, hits checked against their manifests."""
    found = statuses(session.plan, session.store, read_last(session.store), force)
    return verify(found, session.store)


def drop_forced(session: Session, status: Sequence[Status]) -> None:
    """Takes forced artifacts out of the store and its remote, so that they are computed again. One whose key another
    process holds is being computed by it already."""
    store = session.store
    for item in status:
        slot, key = item.cell.slot, item.cell.key
        if item.why.startswith("--force") and store.has(slot, key) and try_lock(lock := store.lock(key)):
            try:
                if store.has(slot, key):
                    shutil.rmtree(store.set_aside(slot, key))
            finally:
                lock.release()
        if item.why.startswith("--force") and session.remote is not None:
            session.remote.drop(item.cell.ref)


def exchange(remote: Remote | None, work: Work, status: Sequence[Status], only: str | None = None) -> list[Status]:
    """Sends to the store's remote what it lacks, brings from it what the work needs and this machine lacks, and
    returns the states after that. What turns out to be damaged there counts as missing."""
    if remote is None:
        return list(status)
    remote.ready()
    there = remote.present(item.cell.ref for item in status)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(remote.push, [s.cell.ref for s in status if s.hit and s.cell.ref not in there]))
        while refs := wanted(work, status, there, only):
            brought = {ref for ref, done in zip(refs, threads.map(remote.fetch, refs), strict=True) if done}
            there -= set(refs) - brought
            status = assume(status, brought)
    return list(status)


def git_commit(project: Path) -> str:
    """The project's git commit, or ''."""
    try:
        found = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
