"""Prefect's work pools: what is deployed there, and an executor that hands groups of cells to one."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from assay.flows.elsewhere import Answer, Elsewhere, cells_to_text
from assay.flows.workers import Stopped, WorkerDied
from assay.plugins.values import AssayError, BadInput
from assay.tasks.cells import Cell
from assay.tasks.compute import Outcome
from assay.tasks.remote import Remote

POLL_SECONDS = 1.0
LOST_SECONDS = 45.0  # without a beat, after which a process counts as dead
START_SECONDS = 180.0  # from the moment a worker took a group to its first beat
AWAY_SECONDS = 60.0  # without an answer of the Prefect server
LONELY_SECONDS = 15.0  # in the queue, after which it is said that no worker is up
CELLS = "assay-cells"
ENGINE = "python -m prefect.engine"  # at once; else Prefect first makes a workspace, for code that it would fetch


class Pool:
    """A work pool as a run sees it that hands it groups. Use as a context manager."""

    def __init__(self, url: str, name: str):
        self.url, self.name = url, name

    def __enter__(self) -> Pool:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings(updates={PREFECT_API_URL: self.url}):
            self._client = get_client(sync_client=True).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(None, None, None)

    def device(self) -> str:
        """The device that the pool's machines have, as `assay deploy` was told; the pool and its deployment
        are there after this. Raises BadInput."""
        from prefect.exceptions import ObjectNotFound

        try:
            self._deployment = self._client.read_deployment_by_name(f"{CELLS}/{self.name}")
        except ObjectNotFound:
            how = f"assay deploy --pool {self.name}"
            raise BadInput(f"--pool {self.name}: nothing is deployed there: `{how}` does it") from None
        return str(self._deployment.parameters.get("device", "cpu"))

    def lonely(self) -> bool:
        """Whether no worker of the pool is up."""
        workers = self._client.read_workers_for_work_pool(self.name)
        return not any(str(worker.status).endswith("ONLINE") for worker in workers)

    def submit(self, label: str, group: str, parameters: Mapping[str, Any]) -> uuid.UUID:
        """Hands out a group, once: Prefect's client asks again where a slow server did not answer in time."""
        given = {"label": label, "group": group, **parameters}
        id = self._deployment.id
        run = self._client.create_flow_run_from_deployment(id, parameters=given, name=label, idempotency_key=group)
        return run.id

    def state(self, run: uuid.UUID) -> Any:
        """The state of a group's flow run."""
        return self._client.read_flow_run(run).state

    def end(self, run: uuid.UUID, why: str, died: bool) -> None:
        """Records that a group's process died, or has it ended."""
        import httpx
        from prefect.exceptions import ObjectNotFound
        from prefect.states import Cancelling, Crashed

        state: Any = Crashed(message=why) if died else Cancelling(message=why)
        with contextlib.suppress(httpx.HTTPError, ObjectNotFound):  # for its pages: the run goes on without
            self._client.set_flow_run_state(run, state, force=died)


@dataclass
class PoolExecutor(Elsewhere):
    """Hands groups to the workers of a pool. `say` tells people what holds up the run."""

    pool: Pool = field(kw_only=True)
    say: Callable[[str], None] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._said = False

    def send(self, cells: Sequence[Cell]) -> Answer:
        """Hands the cells to the pool and waits for what comes of them."""
        assert self.remote is not None
        group = uuid.uuid4().hex
        folder = f"groups/{group}"
        self.remote.write(f"{folder}/cells.json", cells_to_text(cells))
        parameters = {"remote": self.remote.url, "command": self.command}
        try:
            run = self.pool.submit(cells[0].group, group, parameters)
            return self._await(run, cells[0], folder, self.remote)
        finally:
            self.remote.clear(folder)

    def _await(self, run: uuid.UUID, first: Cell, folder: str, remote: Remote) -> Answer:
        handed = begun = beaten = time.monotonic()
        beat: str | None = None
        while True:
            if self.stopped():
                self.pool.end(run, "the run that wanted it was stopped", died=False)
                raise Stopped("the run was stopped")
            time.sleep(POLL_SECONDS)
            state = self._state(run)
            answer = remote.read(f"{folder}/answer.json")
            if answer is not None:
                return Answer.from_json(json.loads(answer))
            now = time.monotonic()
            if state.is_scheduled():
                begun = beaten = now
                self._complain(now - handed)
                continue
            if state.is_crashed():
                raise WorkerDied(f"with its flow run crashed: {state.message}")
            if state.is_final():
                text = f"{first.label}: its flow run ended as {state.name}: {state.message}"
                return Answer(Outcome(first.key, "failed", message=text), {})
            found = remote.read(f"{folder}/beat")
            if found != beat:
                beat, beaten = found, now
            silent = now - begun > START_SECONDS if beat is None else now - beaten > LOST_SECONDS
            if silent:
                self.pool.end(run, "nothing was heard of its process any more", died=True)
                raise WorkerDied("and nothing was heard of it any more")

    def _state(self, run: uuid.UUID) -> Any:
        """A flow run's state, also where the server is away for a moment."""
        import httpx

        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                return self.pool.state(run)
            except (httpx.HTTPError, OSError) as error:
                if time.monotonic() > end or self.stopped():
                    raise AssayError(f"the Prefect server at {self.pool.url} does not answer: {error}") from error
                time.sleep(POLL_SECONDS)

    def _complain(self, waited: float) -> None:
        """Says once that the queue is long because nobody is there."""
        if waited > LONELY_SECONDS and not self._said:
            self._said = True
            if self.pool.lonely():
                name = self.pool.name
                self.say(f"no worker of pool {name} is up: `assay worker --pool {name}` starts one; waiting")


# deploying


def deploy(url: str, name: str, device: str, whole: tuple[str, Mapping[str, Any], str] | None) -> list[str]:
    """Creates the pool where there is none, and registers there the flow that computes groups of cells, and,
    where `whole` gives its name, parameters and cron line ('' for none), the one that runs a whole pipeline.
    Returns the deployments' names. Raises BadInput where the pool is of another type."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments.runner import RunnerDeployment
    from prefect.exceptions import ObjectNotFound
    from prefect.flows import EntrypointType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    from assay.flows.pool_flow import cells
    from assay.flows.schedule import scheduled

    with temporary_settings(updates={PREFECT_API_URL: url}):
        with get_client(sync_client=True) as client:
            try:
                kind = client.read_work_pool(name).type
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
                kind = client.create_work_pool(pool).type
        if kind != "process":
            raise BadInput(f"--pool {name}: that is a pool of type {kind!r}; Assay's workers serve type 'process'")
        made = []
        flows: list[tuple[Any, str, Mapping[str, Any], str]] = [(cells, name, {"device": device}, "")]
        if whole is not None:
            flows.append((scheduled, *whole))
        for function, label, parameters, cron in flows:
            deployment = RunnerDeployment.from_flow(
                function,
                name=label,
                parameters=dict(parameters),
                cron=cron or None,
                work_pool_name=name,
                job_variables={"command": ENGINE},
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            deployment.apply()
            made.append(deployment.full_name)
    return made
