"""The stages of `dvc.yaml`, each as a plain function without a server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from assay.flows.executor import Executor
from assay.flows.local import run_groups
from assay.flows.progress import Screen
from assay.flows.record import write_metrics, write_pointers
from assay.flows.session import check_hits, exchange, materialise, open_session
from assay.plugins.values import BadInput
from assay.tasks.plan import Plan
from assay.tasks.status import needed, write_last


def run_stage(name: str, variant: str, params: Path, command: str, console: Console) -> None:
    """Computes one stage's cells (and what they need and is missing), without a server."""
    session = open_session(params, (), None, command)
    if variant and variant not in session.plan.variants:
        raise BadInput(f"there is no variant {variant!r}: the params have {', '.join(session.plan.variants)}")
    materialise(session)
    status = check_hits(session, ())
    only = None if name == "report" else name
    todo = needed(session.plan, exchange(session.remote, session.plan, status, only), only)
    if variant:
        chain = {ref.key for ref in session.plan.chains[variant]}
        todo = _with_inputs(session.plan, [key for key in todo if key in chain], set(todo))
    screen = Screen(len(todo), session.store, console)
    with (
        Executor(
            session.store, session.downloads, session.workers, session.params.threads, command, screen, session.remote
        ) as executor,
        screen,
    ):
        run_groups(session.plan.groups(todo), executor.run)
    write_last(session.plan, session.store)
    if name == "report":
        from assay.flows.finish import finish

        result = finish(session, None, track=False, computed=len(todo), begun=time.monotonic())
        write_metrics(session.project, session.plan, result.summary, session.store)
    else:
        write_pointers(session.project, session.plan, name, variant)


def _with_inputs(plan: Plan, keys: Sequence[str], among: set[str]) -> list[str]:
    wanted: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in among and key not in wanted:
            wanted.add(key)
            waiting.extend(ref.key for ref in plan.cells[key].inputs.values())
    return [key for key in plan.cells if key in wanted]
