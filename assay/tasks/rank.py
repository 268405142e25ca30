"""A process beside the one that computes a training on several devices: it does its share, and ends with it.

Started as `python -m assay.tasks.rank`. What it is to do is a line of JSON on standard input; on standard output it
says when it is ready, and then `done` or what went wrong.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.tasks.processes import leave_with, pipes


def main() -> None:
    """Computes one share of one training."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    requests, answers = pipes()
    request = json.loads(requests.readline())
    threading.Thread(target=leave_with, args=(requests,), daemon=True).start()

    def say(what: str, **more: Any) -> None:
        answers.write(json.dumps({"what": what, **more}) + "\n")
        answers.flush()

    try:
        _compute(request, say)
    except Exception as error:
        code = getattr(error, "code", None)
        say("failed", text=str(error), kind=type(error).__name__, code=code, trace=traceback.format_exc())
        sys.exit(1)


def _compute(request: dict[str, Any], say: Callable[[str], None]) -> None:
    """Says when it has what it needs, and when it is done; then waits to be ended."""
    import torch

    from assay.tasks import ranks, training
    from assay.tasks.job import Job, prepare_process

    prepare_process(int(request["spec"]["seed"]), int(request["threads"]))
    job = Job(
        spec=request["spec"],
        inputs={role: Path(folder) for role, folder in request["inputs"].items()},
        out=Path(request["out"]),
        work=Path(request["work"]),
        device=torch.device(request["device"]),
    )
    say("ready")
    with ranks.joined(ranks.Place(**request["place"]), job.device) as group:
        training.prepared(job, group).run()
        say("done")
        threading.Event().wait()  # others may still be reading what this process sent


if __name__ == "__main__":
    main()
