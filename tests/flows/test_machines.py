"""What is wrong with the options for several machines is said before a server is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assay.flows import pipeline
from assay.flows.cli import main
from assay.flows.elsewhere import Answer, Elsewhere
from assay.flows.executor import CellFailed, Executor
from assay.flows.session import resolve_device
from assay.plugins.values import AssayError, BadInput
from assay.tasks.cells import Cell, Env, make
from assay.tasks.compute import Outcome
from assay.tasks.remote import Remote
from assay.tasks.store import Store


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deploy", "--pool", "p", "--device", "tpu"], "--device 'tpu': use cpu or cuda"),
        (["deploy", "--pool", "p"], "store.remote is empty: machines of a pool share artifacts there"),
        (["deploy", "--pool", "p", "--set", "store.remote=file:///srv/x", "--cron", "at noon"], "is no cron line"),
        (["run", "--pool", "p", "--no-server"], "--pool p needs the Prefect server"),
        (["run", "--pool", "p", "--runner", "dask"], "--pool p and --runner dask: give one of them"),
        (["run", "--runner", "ray"], "--runner 'ray': use local or dask"),
        (["sweep", "--grid", "seed=0,1", "--pool", "p", "--no-server"], "--pool p needs the Prefect server"),
        (["sweep", "--grid", "seed=0,1", "--dry-run", "--runner", "ray"], "--runner 'ray': use local or dask"),
        (["study", "randomization_test", "--pool", "p", "--runner", "dask"], "--pool p and --runner dask: give one"),
        (["study", "randomization_test", "--runner", "ray"], "--runner 'ray': use local or dask"),
    ],
)
def test_bad_options(project: Any, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (project.folder / ".assay" / "prefect").exists()


def test_a_server_that_goes_away(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the run in words, whatever ran: what waits for cells is let go."""
    import httpx

    url = "http://127.0.0.1:9/api"
    monkeypatch.setattr(pipeline, "ensure_server", lambda folder: url)
    executor = Executor(Store(project.folder / "store"), project.folder, 1, 1, "a test")
    with (
        pytest.raises(AssayError, match=f"the Prefect server at {url} does not answer any more .ConnectError."),
        pipeline.on_server(project.folder, executor, {"cpu"}),
    ):
        raise httpx.ConnectError("refused")
    assert executor.stopped()


class Sent(Elsewhere):
    """Keeps what it was to hand out."""

    def send(self, cells: Sequence[Cell]) -> Answer:
        self.labels = [cell.label for cell in cells]
        return Answer(Outcome(cells[0].key, "failed", message="handed out"), {})


def test_what_the_remote_has_is_not_handed_out(tmp_path: Path) -> None:
    """As where a study asks for trainings that another machine has computed."""
    url = f"file://{tmp_path / 'remote'}"
    there, missing = (
        make("train", "train", name, "none:none", {"name": name}, {}, Env("cpu", 1, str(tmp_path)), "one group")
        for name in ("there", "missing")
    )
    other = Remote(url, Store(tmp_path / "other"))
    _, out = other.store.begin(there.key)
    (out / "file").write_text("answer")
    other.store.commit(there.slot, there.key, {"label": "there"})
    other.push(there.ref)
    store = Store(tmp_path / "store")
    with Sent(store, tmp_path, 1, 1, "a test", remote=Remote(url, store)) as executor:
        executor.run([there])
        assert not hasattr(executor, "labels")
        with pytest.raises(CellFailed, match="handed out") as caught:
            executor.run([there, missing])
    assert (executor.labels, caught.value.key) == (["missing"], missing.key)
    assert (executor.computed, store.has(there.slot, there.key)) == (0, True)


def test_the_pool_s_device() -> None:
    assert resolve_device("auto", "cuda") == resolve_device("cuda", "cuda") == "cuda"
    assert resolve_device("auto", "cpu") == "cpu"
    with pytest.raises(BadInput, match="device: 'cpu', and the pool was deployed for 'cuda': use 'auto'"):
        resolve_device("cpu", "cuda")
