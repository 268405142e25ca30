"""The commands for work on several machines: deploy, worker."""

from __future__ import annotations

from typing import Annotated

import typer

from assay.flows.options import PARAMS, ParamsOption, SetOption, commands

PoolOption = Annotated[str, typer.Option("--pool", help="The Prefect work pool.")]


def deploy(
    pool: PoolOption,
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    cron: Annotated[str, typer.Option(help="When to run the whole pipeline there, as a cron line.")] = "",
    device: Annotated[str, typer.Option(help="What the pool's machines compute on: cpu or cuda.")] = "cpu",
    gpus: Annotated[int, typer.Option(help="With cuda: how many cells may use a GPU at once, in all.", min=1)] = 1,
) -> None:
    """Register the pipeline, and the computing of single cells, in a Prefect work pool of processes."""
    commands("cluster").deploy(pool, params, set or [], cron, device, gpus)


def worker(
    pool: PoolOption,
    params: ParamsOption = PARAMS,
    limit: Annotated[int, typer.Option(help="Groups of cells at once; 0: as many as cores hold.", min=0)] = 0,
    name: Annotated[str, typer.Option(help="The worker's name in Prefect's pages.")] = "",
) -> None:
    """Serve a work pool on this machine until Ctrl-C: Prefect's worker with this project's settings."""
    commands("cluster").worker(pool, params, limit, name)
