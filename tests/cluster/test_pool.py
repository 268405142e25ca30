"""Runs, sweeps and studies that are shared by the workers of a work pool, each with a store of its own and one remote
in common. Those on a remote in a folder are in `make test`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import assay
from assay.flows.pool import Pool


def label_of(machine: Any) -> dict[str, str]:
    """Label → key of the artifacts in a machine's store."""
    store = machine.store
    return {str(store.manifest(slot, key)["label"]): key for slot, key, _ in store.artifacts()}


def pool_of(cluster: Any, name: str, machine: Any) -> str:
    """A pool that is deployed: one on each kind of remote."""
    pool = f"{name}-{cluster.folder.name}"
    assert machine.do("deploy", "--pool", pool) == 0, machine.said
    return pool


def one_that_trains(workers: Any, run: Any, parent: Any, until: Any) -> Any:
    """The first machine that has a training under way."""

    def training() -> Any:
        assert run.poll() is None, parent.said
        return next((m for m in workers if any((m.store.root / "work").glob("*/resume.safetensors"))), None)

    return until(training, "a training under way")


def test_two_workers_share_a_run_and_one_is_killed(anywhere: Any, until: Any, kill_tree: Any) -> None:
    """The machine that has the training loses power in its middle; the other finishes, and the numbers are those
    of a run on one machine alone."""
    alone = anywhere.machine("alone", remote=False)
    parent, *workers = (anywhere.machine(name) for name in ("parent", "one", "two"))
    pool = pool_of(anywhere, "shared", parent)
    long = ["--set", "train.epochs=300", "--set", "train.keep=[0, last]"]
    code, expected = alone.run("--no-server", *long)
    assert code == 0, alone.said
    processes = {machine.name: anywhere.worker(machine, pool) for machine in workers}
    run = parent.start("run", "--json", "--pool", pool, *long)
    victim = one_that_trains(workers, run, parent, until)
    kill_tree(processes[victim.name].pid)
    (survivor,) = [machine for machine in workers if machine is not victim]
    assert run.wait(420) == 0, parent.said + survivor.said
    answer = json.loads(parent.out(run))
    assert answer["rows"] == expected["rows"]
    assert answer["pipeline"] == expected["pipeline"]
    assert answer["computed"] == expected["computed"]
    ended = [flow["state"]["type"] for flow in anywhere.flow_runs(pool) if flow["name"] == "train dense"]
    assert sorted(ended) == ["COMPLETED", "CRASHED"]
    assert "train dense" in label_of(survivor)
    assert "train dense" not in label_of(victim)
    assert set(label_of(parent)) == set(label_of(alone))

    code, again = parent.run("--pool", pool, *long)  # nothing is left for the pool
    assert (code, again["computed"], again["rows"]) == (0, 0, expected["rows"])


def test_a_worker_with_other_code_refuses(anywhere: Any, tmp_path: Path) -> None:
    """It names the file that differs, computes nothing, and the run ends with its words."""
    shutil.copytree(Path(assay.__file__).parent, tmp_path / "other" / "assay")
    changed = tmp_path / "other" / "assay" / "plugins" / "train" / "optimizer" / "adamw.py"
    changed.write_text(changed.read_text(encoding="utf-8") + "\nEDITED = True\n", encoding="utf-8")
    parent, other = anywhere.machine("parent-2"), anywhere.machine("other-code")
    pool = pool_of(anywhere, "odd", parent)
    path = f"{tmp_path / 'other'}:{anywhere.environment['PYTHONPATH']}"
    anywhere.worker(other, pool, PYTHONPATH=path)
    code, answer = parent.run("--pool", pool, "--set", "seed=1")
    assert (code, answer) == (1, None)
    assert "refuses 'train dense': source of assay.plugins.train.optimizer.adamw changed" in parent.said
    assert str(changed) in parent.said
    assert "Traceback" not in parent.said
    assert not label_of(other)
    refused = [flow for flow in anywhere.flow_runs(pool) if "refuses" in str(flow["state"]["message"])]
    assert {flow["state"]["type"] for flow in refused} == {"FAILED"}
    assert "train dense" in {flow["name"] for flow in refused}


def test_a_sweep_and_a_study_in_a_pool(cluster: Any, until: Any, kill_tree: Any) -> None:
    """One of two workers loses power in the sweep's middle; the numbers are those of one machine alone, and a machine
    that comes later has nothing to compute."""
    params = {**cluster.machine("alone-6", remote=False).params, "compress": {}, "evaluate": ["accuracy/top1"]}
    alone = cluster.machine("alone-7", params, remote=False)
    parent, later, *workers = (cluster.machine(name, params) for name in ("parent-6", "later", "five", "six"))
    sweep = ["sweep", "--grid", "seed=0,1", "--set", "train.epochs=300", "--set", "train.keep=[0, last]"]
    code, expected = alone.ask(*sweep, "--no-server")
    assert code == 0, alone.said
    pool = pool_of(cluster, "sweeps", parent)
    processes = {machine.name: cluster.worker(machine, pool) for machine in workers}
    run = parent.start(*sweep, "--pool", pool, "--json")
    victim = one_that_trains(workers, run, parent, until)
    kill_tree(processes[victim.name].pid)
    assert run.wait(420) == 0, parent.said
    answer = json.loads(parent.out(run))
    assert (answer["points"], answer["computed"]) == (expected["points"], expected["computed"])
    flows = {(flow["name"], flow["state"]["type"]) for flow in cluster.flow_runs(pool)}
    assert {(f"point {i}: {name}", "COMPLETED") for i in (1, 2) for name in ("train dense", "evaluate dense")} <= flows
    assert "CRASHED" in {state for _, state in flows}

    study = ["study", "randomization_test", "--with", "fractions=[0.0, 1.0]", "--with", "seeds=1"]
    code, found = parent.ask(*study, "--pool", pool)
    assert code == 0, parent.said
    (survivor,) = [machine for machine in workers if machine is not victim]
    assert "study randomization_test" in label_of(survivor)
    assert found["computed"] == 2 + 2 + 1  # noise, trainings, the study
    for asked, wanted in ((sweep, answer["points"]), (study, found["numbers"])):
        code, again = later.ask(*asked, "--no-server")
        assert (code, again["computed"]) == (0, 0), later.said
        assert again["points" if asked is sweep else "numbers"] == wanted


def test_a_whole_run_in_the_pool(cluster: Any, until: Any) -> None:
    """Prefect's own command starts it; the worker's machine computes it, with its params file and its overrides."""
    deployer, machine = cluster.machine("deployer-3"), cluster.machine("whole")
    assert deployer.do("deploy", "--pool", "whole", "--set", "train.epochs=1", "--set", "evaluate=[accuracy/top1]") == 0
    worker = cluster.worker(machine, "whole")
    command = [sys.executable, "-m", "prefect", "deployment", "run", "assay-scheduled/deployer-3"]
    subprocess.run(command, env=cluster.environment, cwd=deployer.folder, check=True, capture_output=True)

    def ended() -> Any:
        (run,) = [flow for flow in cluster.flow_runs("whole") if "overrides" in flow["parameters"]]
        return run["state"] if run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    state = until(ended, "the run in the pool")
    assert state["type"] == "COMPLETED", state
    assert "every gate passed; computed" in state["message"]
    assert "train dense" in label_of(machine)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(60) == 0


def test_ctrl_c_takes_the_work_back(cluster: Any, until: Any) -> None:
    """The run ends at once; what it had handed out is cancelled, and the same command goes on."""
    parent, machine = cluster.machine("parent-4"), cluster.machine("four")
    assert parent.do("deploy", "--pool", "fourth") == 0
    cluster.worker(machine, "fourth")
    long = ["--set", "train.epochs=300", "--set", "seed=4", "--set", "evaluate=[accuracy/top1]"]
    run = parent.start("run", "--json", "--pool", "fourth", *long)
    until(lambda: any((machine.store.root / "work").glob("*/resume.safetensors")), "a training under way")
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130, parent.said

    def cancelled() -> bool:
        return any(
            flow["name"] == "train dense" and flow["state"]["type"] == "CANCELLED"
            for flow in cluster.flow_runs("fourth")
        )

    until(cancelled, "the flow run to be cancelled")
    code, answer = parent.run("--pool", "fourth", *long)
    assert code == 0, parent.said
    assert answer["computed"] > 0


def test_a_group_is_handed_out_once(cluster: Any) -> None:
    """Also where Prefect's client asks a slow server twice."""
    name = pool_of(cluster, "once", cluster.machine("deployer-7"))
    with Pool(cluster.url, name) as pool:
        pool.device()
        given = ("train dense", "0" * 32, {"remote": cluster.remote, "command": "a test"})
        first = pool.submit(*given)
        assert pool.submit(*given) == first
        assert [flow["id"] for flow in cluster.flow_runs(name)] == [str(first)]
        pool.end(first, "it was a test", died=False)


def test_a_pool_that_is_not_there(cluster: Any) -> None:
    parent = cluster.machine("parent-5")
    for command in (["run", "--pool", "nowhere"], ["worker", "--pool", "nowhere"]):
        assert parent.do(*command) == 2
    assert parent.said.count("--pool nowhere: nothing is deployed there: `assay deploy --pool nowhere` does it") == 2
    parent.write({**parent.params, "store": {}})
    assert parent.do("deploy", "--pool", "p") == 2
    assert "store.remote is empty" in parent.said


def test_no_secret_anywhere(cluster: Any, secret: str) -> None:
    """Not in logs, artifacts, the server's database or what was printed."""
    assert secret not in cluster.everything_said()
