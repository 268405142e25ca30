"""Ctrl-C, killed worker processes, and both with the real Prefect server: the run ends or goes on cleanly."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from assay.flows import server
from assay.plugins.values import AssayError

pytestmark = pytest.mark.server


def interrupted(run: Any) -> None:
    """Presses Ctrl-C and asserts that the run ends as it should."""
    run.signal(signal.SIGINT)
    assert run.seen, "there were workers to end"
    finished = run.end()
    assert finished.code == 130, finished.said
    assert "the same command goes on" in finished.said
    assert "Traceback" not in finished.said
    assert "Error" not in finished.said


def test_ctrl_c(
    homes: Callable[..., Any], reference: Any, judge: Callable[..., None], until: Callable[..., Any], rng: random.Random
) -> None:
    home = homes("stopped")
    for stage, longest in (("train", 2.0), ("attribute", 0.5)):
        with home.start() as run:
            until(lambda run=run, stage=stage: run.began(reference.stages[stage]), f"the stage {stage}")
            run.pause(rng.uniform(0, longest))
            interrupted(run)
    judge(home, home.run())


def test_workers_killed(
    homes: Callable[..., Any], reference: Any, judge: Callable[..., None], until: Callable[..., Any], rng: random.Random
) -> None:
    """Each worker is killed once while it trains; the run replaces it and ends as if nothing had been."""
    home = homes("wounded")
    with home.start("--set", "workers=2") as run:
        for stage, longest in (("train", 2.0), ("finetune", 1.0)):
            until(lambda stage=stage: run.began(reference.stages[stage]), f"the stage {stage}")
            run.pause(rng.uniform(0, longest))
            for pid in run.workers():
                os.kill(pid, signal.SIGKILL)
        finished = run.end()
    judge(home, finished)
    assert finished.answer["computed"] >= reference.cells - 1  # one may have been done just before its worker died


def test_workers_killed_again_and_again(homes: Callable[..., Any], reference: Any) -> None:
    """A cell whose process dies each time (as where memory runs out) ends the run with a message."""
    home = homes("hunted", reference.home)
    home.forget(reference.stages["evaluate"])
    with home.start() as run:
        while run.process.poll() is None:
            for pid in run.workers():
                os.kill(pid, signal.SIGKILL)
            run.pause(0.05)
        finished = run.end()
    assert finished.code == 1
    assert "Traceback" not in finished.said
    (line,) = [line for line in finished.said.splitlines() if line.startswith("error: ")]
    assert "its process died 4 times" in line
    assert "evaluate" in line
    assert home.contents().items() <= reference.home.contents().items()


def test_with_the_server(
    homes: Callable[..., Any], reference: Any, judge: Callable[..., None], until: Callable[..., Any], rng: random.Random
) -> None:
    """`kill -9` and Ctrl-C of a Prefect flow; the server outlives them and serves the next run."""
    from assay.flows import server

    home = homes("served")
    try:
        with home.start(server=True) as run:
            until(lambda: run.began(reference.stages["train"]), "the stage train")
            run.pause(rng.uniform(0, 2))
            run.signal(signal.SIGKILL)
            assert run.end().code == -signal.SIGKILL
        url = server.running(home.folder)
        assert url
        with home.start(server=True) as run:
            until(lambda: run.began(reference.stages["finetune"]), "the finetuning")
            run.pause(rng.uniform(0, 0.3))  # what is left takes little more than a second on a quiet machine
            interrupted(run)
        judge(home, home.run(server=True))
        assert server.running(home.folder) == url
    finally:
        server.stop(home.folder)


def test_a_server_that_was_left_before_it_answered_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a Ctrl-C at the wrong moment: the next run takes it, and `assay ui --stop` ends the only one there is."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    server.state_file(tmp_path).parent.mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(server, "START_SECONDS", 0.1)
        with pytest.raises(AssayError, match="did not start"):
            server.start(tmp_path)
    pid = json.loads(server.state_file(tmp_path).read_text(encoding="utf-8"))["pid"]
    try:
        assert server.healthy(server.ensure_server(tmp_path))
        assert json.loads(server.state_file(tmp_path).read_text(encoding="utf-8"))["pid"] == pid
    finally:
        assert server.stop(tmp_path)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
