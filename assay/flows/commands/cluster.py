"""deploy, worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from assay.flows import server
from assay.flows.commands.upkeep import check_cron
from assay.flows.elsewhere import PROJECT, STORE
from assay.plugins.values import BadInput
from assay.tasks import params as p
from assay.tasks import settings
from assay.tasks.store import store_root


def say(text: str) -> None:
    """A line for who watches."""
    print(text, file=sys.stderr, flush=True)


def deploy(pool: str, params: Path, overrides: Sequence[str], cron: str, device: str, gpus: int) -> None:
    """Registers the pipeline and the computing of cells in a pool, which is made where there is none."""
    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device {device!r}: use cpu or cuda")
    checked = p.read(params, overrides)
    if not checked.store.remote:
        raise BadInput("store.remote is empty: machines of a pool share artifacts there, as s3://bucket/prefix")
    project = params.resolve().parent
    settings.apply(project)
    if cron:
        check_cron(cron)
    url = server.ensure_server(project)
    from assay.flows import gpu
    from assay.flows.pool import deploy as register

    console = Console(stderr=True)
    whole = {"project": "", "params": params.name, "overrides": list(overrides)}
    for name in register(url, pool, device, (project.name, whole, cron)):
        console.print(f"deployed {name}", highlight=False)
    if device == "cuda":
        console.print(f"GPU slots: {gpu.ensure_limit(url, gpus)}", highlight=False)
    console.print(f"next: `assay worker --pool {pool}` on each machine, `assay run --pool {pool}`", highlight=False)


def worker(pool: str, params: Path, limit: int, name: str) -> None:
    """Serves a pool with Prefect's worker, in this process, until Ctrl-C."""
    checked = p.read(params)
    project = params.resolve().parent
    settings.apply(project)
    url = server.ensure_server(project)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    os.environ.update(
        {
            "PREFECT_API_URL": url,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            PROJECT: str(project),
            STORE: str(store_root(checked.store.root, project)),
        }
    )
    from assay.flows.pool import Pool

    with Pool(url, pool) as found:
        found.device()
    limit = limit or max(1, (os.cpu_count() or 1) // checked.threads)
    name = (name or f"{platform.node()} {project.name}").replace("/", "-").replace("%", "-")
    from prefect.workers.process import ProcessWorker

    served = ProcessWorker(work_pool_name=pool, name=name, limit=limit, create_pool_if_not_found=False)
    say(f"worker {name!r} of pool {pool}: {limit} groups of cells at once; Ctrl-C ends this")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started this in the background
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with server.in_use(project), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(served.start(printer=say))
    say("stopped")
