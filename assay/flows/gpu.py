"""GPU slots: a global concurrency limit of Prefect's, which Assay creates and checks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from assay.flows.workers import Stopped
from assay.plugins.values import AssayError
from assay.tasks.cells import Cell

LIMIT = "gpu"
LEASE_SECONDS = 60.0  # after which the slot of a process that was killed is free again
TRY_SECONDS = 3.0


def ensure_limit(url: str, slots: int) -> int:
    """Creates the limit where there is none, and returns its slots: what a user set stays. Raises AssayError
    where it would let nobody in. Prefect itself passes over a limit that is missing, in silence."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(updates={PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another run was quicker
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=slots))
            limit = client.read_global_concurrency_limit_by_name(LIMIT)
    if not limit.active or limit.limit < 1:
        how = f"prefect gcl update {LIMIT} --enable --limit {max(1, slots)}"
        raise AssayError(f"Prefect's concurrency limit '{LIMIT}' lets nobody in: {how}")
    return int(limit.limit)


def here() -> int:
    """How many slots this machine is good for: its GPUs, at least one."""
    import torch

    return max(1, torch.cuda.device_count())


@contextlib.contextmanager
def slot(url: str, stopped: Callable[[], bool], cell: Cell) -> Iterator[None]:
    """Holds the GPU slots of the Prefect server at `url` while a cell computes that needs some; without a server
    there are none to hold. Raises Stopped where `stopped` becomes true first, AssayError where the limit is gone or
    has fewer slots than the cell needs."""
    if not url or cell.env.device == "cpu":
        yield
        return
    if cell.devices > 1 and (slots := ensure_limit(url, here())) < cell.devices:  # Prefect would wait for ever
        raise AssayError(
            f"{cell.label}: train.devices is {cell.devices}, and Prefect's concurrency limit '{LIMIT}' has {slots} "
            f"slots: prefect gcl update {LIMIT} --limit {cell.devices}, where there are so many GPUs"
        )
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
    from prefect.concurrency.sync import concurrency
    from prefect.settings import PREFECT_API_URL, temporary_settings

    logging.getLogger("prefect.concurrency").setLevel(logging.ERROR)
    with contextlib.ExitStack() as held:
        held.enter_context(temporary_settings(updates={PREFECT_API_URL: url}))
        while True:
            if stopped():
                raise Stopped("the run was stopped")
            # A computation goes on where the server cannot be told for a moment that the slot is still in use.
            wanted = concurrency(
                LIMIT,
                occupy=cell.devices,
                timeout_seconds=TRY_SECONDS,
                lease_duration=LEASE_SECONDS,
                strict=True,
                raise_on_lease_renewal_failure=False,
            )
            try:
                held.enter_context(wanted)
                break
            except TimeoutError:
                continue
            except ConcurrencySlotAcquisitionError as error:
                raise AssayError(f"no slot of Prefect's concurrency limit '{LIMIT}' at {url}: {error}") from error
        yield
