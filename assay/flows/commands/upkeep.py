"""serve, ui, track sync, doctor, clean."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from assay.flows.commands.runs import print_json
from assay.plugins import registry
from assay.plugins.values import AssayError, BadInput
from assay.tasks import settings

GIB = 2**30


def serve(params: Path, overrides: Sequence[str], cron: str, interval: float) -> None:
    """Serves the pipeline on a schedule until Ctrl-C."""
    from assay.flows.session import open_session

    if bool(cron) == bool(interval):
        raise BadInput("give either --cron LINE or --interval SECONDS")
    if interval < 0:
        raise BadInput(f"--interval {interval}: seconds must be positive")
    session = open_session(params, overrides)
    if cron:
        check_cron(cron)
    from assay.flows.schedule import serve as serve_flow

    serve_flow(session.project, params, overrides, cron, interval)


def check_cron(line: str) -> None:
    """Raises BadInput where a text is no cron line."""
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=line)
    except ValueError:
        raise BadInput(f"--cron {line!r} is no cron line; '0 3 * * *' is every day at three") from None


def track_sync(params: Path) -> int:
    """Sends what waits; 1 where MLflow still does not answer."""
    from assay.flows.session import open_session
    from assay.tasks import track

    session = open_session(params)
    sent, waiting = track.sync(session.project)
    Console(stderr=True).print(f"sent {sent} runs, {waiting} still wait", highlight=False)
    return 1 if waiting else 0


def ui(params: Path, port: int, stop: bool) -> None:
    """Serves MLflow's and Prefect's pages on loopback until Ctrl-C, or until `stop` ends them."""
    from assay.flows import pages, server
    from assay.tasks import mlflow_at

    project = params.resolve().parent
    settings.apply(project)
    console = Console()
    if stop:
        ended = [
            name for name, end in (("MLflow's pages", pages.stop), ("the Prefect server", server.stop)) if end(project)
        ]
        console.print(f"stopped {' and '.join(ended)}" if ended else "no server runs")
        return
    uri = mlflow_at.tracking_uri(project)
    try:
        with pages.registered(project) as state, contextlib.ExitStack() as stack:
            url = server.ensure_server(project)
            port = port or server.free_port()
            process = None
            if not uri.startswith("http"):
                process = stack.enter_context(pages.mlflow(project, uri, port, state))
            shown = mlflow_at.without_password(uri) if process is None else f"http://127.0.0.1:{port}"
            console.print(f"MLflow:  {shown}", highlight=False)
            console.print(f"Prefect: {url.removesuffix('/api')}", highlight=False)
            console.print("Ctrl-C ends this", style="dim")
            while process is None or process.poll() is None:
                server.touch(project)
                time.sleep(5)
            raise AssayError("MLflow's server ended")
    except KeyboardInterrupt:
        console.print("stopped")


# doctor


def doctor(params: Path, as_json: bool) -> int:
    """Prints what is well and what is not; 1 where something is not."""
    project = params.resolve().parent
    settings.apply(project)
    rows = [*_versions(), *_devices(), *_servers(project), *_disk(project), *_plugins()]
    if as_json:
        print_json([{"what": what, "ok": ok, "found": found} for what, ok, found in rows])
    else:
        shown = Table("", "what", "found", box=None)
        for what, ok, found in rows:
            shown.add_row("[green]ok[/]" if ok else "[red]no[/]", what, found)
        Console().print(shown)
    return 0 if all(ok for _, ok, _ in rows) else 1


def _versions() -> Iterator[tuple[str, bool, str]]:
    from packaging.requirements import Requirement

    pins = _pins(Path(__file__).parents[2] / "constraints.txt")
    yield "python", sys.version_info >= (3, 11), sys.version.split()[0]
    for text in importlib.metadata.requires("assay") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield requirement.name, False, f"not installed: pip install '{text}'"
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        pin = pins.get(requirement.name.lower())
        note = f", tested with {pin}" if pin and pin != found.split("+")[0] else ""
        yield requirement.name, fits, f"{found} ({requirement.specifier}{note})"


def _pins(path: Path) -> dict[str, str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {name.lower(): pin for name, sign, pin in (line.partition("==") for line in lines) if sign}


def _devices() -> Iterator[tuple[str, bool, str]]:
    import torch

    yield "CPU", True, f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    yield "CUDA", True, torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: runs use the CPU"


def _servers(project: Path) -> Iterator[tuple[str, bool, str]]:
    from assay.flows import server
    from assay.tasks import mlflow_at

    given = os.environ.get("PREFECT_API_URL", "")
    if given:
        yield "Prefect", server.healthy(given), given
    else:
        yield "Prefect", True, server.running(project) or "no server runs; a run starts one"
    uri = mlflow_at.tracking_uri(project)
    yield "MLflow", mlflow_at.answers(uri), mlflow_at.without_password(uri)


def _disk(project: Path) -> Iterator[tuple[str, bool, str]]:
    free = shutil.disk_usage(project if project.exists() else Path.cwd()).free
    yield "disk", free > 2 * GIB, f"{free / GIB:.1f} GiB free"


def _plugins() -> Iterator[tuple[str, bool, str]]:
    found = registry.index()
    yield "methods", True, f"{len(found.entries)} from {len({e.dist for e in found.entries.values()})} distributions"
    for entry in found.entries.values():
        if entry.id in found.claimed_twice:
            continue
        try:
            registry.load(entry.id)
        except registry.UnknownMethod as error:
            # A library of an optional group may be missing: the text says what would install it.
            yield entry.id, "pip install" in str(error), str(error)
    for id, (first, second) in found.claimed_twice.items():
        yield id, False, f"claimed by {first} and {second}"
    for package, reason in found.broken_packages.items():
        yield package, False, reason


# clean


def clean(params: Path, older_than: float | None, keep_gb: float | None, dry_run: bool) -> None:
    """Removes artifacts by age of last use or until the store is small enough, and so what was set aside
    as damaged and what was left by work that nobody took up again."""
    from assay.flows.session import open_session
    from assay.tasks.clean import removable, remove

    if older_than is None and keep_gb is None:
        raise BadInput("say what may go: --older-than DAYS, --keep-gb SIZE, or both")
    if (older_than or 0) < 0 or (keep_gb or 0) < 0:
        raise BadInput("--older-than and --keep-gb cannot be negative")
    session = open_session(params)
    console = Console(stderr=True)
    gone = removable(session.store, session.project, older_than, keep_gb)
    done = gone if dry_run else [item for item in gone if remove(session.store, item)]
    verb = "would remove" if dry_run else "removed"
    artifacts = sum(bool(item.slot) for item in done)
    other = f" and {len(done) - artifacts} folders of damaged or unfinished ones" if len(done) > artifacts else ""
    size = sum(item.size for item in done) / 1e6
    console.print(f"{verb} {artifacts} artifacts{other}, {size:.1f} MB", highlight=False)
