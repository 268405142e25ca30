"""What is wrong with the options for several machines is said before a server is started."""

from __future__ import annotations

from typing import Any

import pytest

from assay.flows.cli import main
from assay.flows.session import resolve_device
from assay.plugins.values import BadInput


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deploy", "--pool", "p", "--device", "tpu"], "--device 'tpu': use cpu or cuda"),
        (["deploy", "--pool", "p"], "store.remote is empty: machines of a pool share artifacts there"),
        (["deploy", "--pool", "p", "--set", "store.remote=file:///srv/x", "--cron", "at noon"], "is no cron line"),
        (["run", "--pool", "p", "--no-server"], "--pool p needs the Prefect server"),
        (["run", "--pool", "p", "--runner", "dask"], "--pool p and --runner dask: give one of them"),
        (["run", "--runner", "ray"], "--runner 'ray': use local or dask"),
    ],
)
def test_bad_options(project: Any, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (project.folder / ".assay" / "prefect").exists()


def test_the_pool_s_device() -> None:
    assert resolve_device("auto", "cuda") == resolve_device("cuda", "cuda") == "cuda"
    assert resolve_device("auto", "cpu") == "cpu"
    with pytest.raises(BadInput, match="device: 'cpu', and the pool was deployed for 'cuda': use 'auto'"):
        resolve_device("cpu", "cuda")
