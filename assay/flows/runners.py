"""Where the cells of a run compute: in processes here, by the workers of a pool, or on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from assay.flows.executor import Executor
from assay.flows.pool import Pool, PoolExecutor
from assay.flows.session import Session
from assay.plugins.values import BadInput
from assay.tasks import settings
from assay.tasks.cells import Cell

RUNNERS = ("local", "dask")


@contextlib.contextmanager
def open_pool(project: Path, name: str, runner: str, prefect: bool) -> Iterator[Pool | None]:
    """The pool that a run hands its cells to, None where none is named. Raises BadInput for options that
    contradict each other."""
    if runner not in RUNNERS:
        raise BadInput(f"--runner {runner!r}: use {' or '.join(RUNNERS)}")
    if not name:
        yield None
        return
    if runner != "local":
        raise BadInput(f"--pool {name} and --runner {runner}: give one of them")
    if not prefect:
        raise BadInput(f"--pool {name} needs the Prefect server: leave out --no-server")
    from assay.flows.server import ensure_server

    settings.apply(project)
    with Pool(ensure_server(project), name) as pool:
        yield pool


@contextlib.contextmanager
def open_executor(
    session: Session, cells: Iterable[Cell], pool: Pool | None, runner: str, console: Console
) -> Iterator[Executor]:
    """The executor of a run, or of a sweep, with these cells. Raises BadInput."""
    common = (session.store, session.downloads, session.workers, session.params.threads, session.command)
    with contextlib.ExitStack() as stack:
        executor: Executor
        if pool is not None:
            _check(session, cells, pool)
            say = partial(console.print, style="yellow", highlight=False)
            executor = PoolExecutor(*common, remote=session.remote, pool=pool, say=say)
        elif runner == "dask":
            from assay.flows.dask_runner import DaskExecutor, open_client

            client, local = stack.enter_context(open_client(session))
            executor = DaskExecutor(
                *common, remote=session.remote, client=client, project=session.project if local else None
            )
        else:
            executor = Executor(*common, remote=session.remote)
        yield stack.enter_context(executor)


def _check(session: Session, cells: Iterable[Cell], pool: Pool) -> None:
    """Raises BadInput where the pool's machines could not get at the artifacts, or this one not do its part."""
    if session.remote is None:
        how = "--set store.remote=s3://bucket/prefix, or file:///srv/shared"
        raise BadInput(f"--pool {pool.name} needs a store that its machines share: {how}")
    import torch

    device = session.plan.env.device
    measured = next((cell.label for cell in cells if cell.exclusive), "")
    if measured and device == "cuda" and not torch.cuda.is_available():
        text = f"'{measured}' measures this machine, which has no {device}: leave it out, or start the run on one"
        raise BadInput(f"--pool {pool.name} is for {device}, and {text}")
