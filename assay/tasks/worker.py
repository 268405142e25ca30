"""A worker process: computes one cell after the other for its parent, and ends when the parent is gone.

Started as `python -m assay.tasks.worker`. A request is a line of JSON on standard input, its answer (an
outcome) a line on standard output. What methods print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO


def main() -> None:
    """Answers requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    waiting: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
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


def _listen(requests: TextIO, waiting: SimpleQueue[str]) -> None:
    """Ends the process as soon as the parent is gone, also in the middle of a cell: artifacts appear whole
    or not at all."""
    for line in requests:
        waiting.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
