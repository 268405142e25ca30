"""A worker process: computes one cell after the other for its parent, and ends when the parent is gone.

Started as `python -m assay.tasks.worker`. A request is a line of JSON on standard input, its answer (an
outcome) a line on standard output. What methods print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import signal
import threading
from pathlib import Path
from queue import SimpleQueue

from assay.tasks.processes import leave_with, pipes


def main() -> None:
    """Answers requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = pipes()
    waiting: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=leave_with, args=(requests, waiting.put), daemon=True).start()
    gc.disable()  # nothing that is imported is garbage, now or later
    from assay.tasks.cells import Cell
    from assay.tasks.compute import compute_one
    from assay.tasks.store import Store

    gc.freeze()
    gc.enable()
    while True:
        request = json.loads(waiting.get())
        cell, store = Cell.from_json(request["cell"]), Store(Path(request["root"]))
        outcome = compute_one(cell, store, Path(request["downloads"]), request["command"], request["failures"])
        answers.write(json.dumps(outcome.to_json()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
