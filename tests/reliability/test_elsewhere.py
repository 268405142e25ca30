"""Groups that are computed elsewhere: what a machine refuses, and what the parent does when a process there dies,
asks for trainings, or says nothing more. The pool is made up here; tests/cluster has a real one."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assay.flows import elsewhere
from assay.flows import pool as pool_module
from assay.flows.elsewhere import Answer, Place, cells_from_text, cells_to_text, compute_group
from assay.flows.executor import CellFailed
from assay.flows.pool import PoolExecutor
from assay.flows.pool_flow import folder_of
from assay.flows.session import open_session
from assay.flows.workers import Stopped
from assay.plugins.values import BadInput
from assay.tasks.artifacts import write_json
from assay.tasks.cells import Cell, Env
from assay.tasks.compute import Outcome
from assay.tasks.elsewhere import Refused, adopt
from assay.tasks.remote import Remote
from assay.tasks.store import Store

# what a machine refuses


@pytest.fixture
def planned(project: Any) -> dict[str, Cell]:
    """A plan's cells by label, as they arrive on another machine."""
    project.tree["attribute"].update(saliency=["gradient", "grad_cam"], audit=["deletion"])
    project.tree["train"].update(
        model={"name": "small_cnn", "width": 8}, around=["sam"], keep=[0, "last"], schedule="cosine"
    )
    project.tree["compress"]["int8"] = [{"name": "prune/magnitude", "sparsity": 0.5}, "quantize/int8_static"]
    project.tree["evaluate"] = ["accuracy/top1", "calibration/ece", "cost/latency"]
    plan = open_session(project.tree, project=project.folder).plan
    return {cell.label: cell for cell in cells_from_text(cells_to_text(list(plan.cells.values())))}


def test_the_same_code_gives_the_same_keys(planned: dict[str, Cell], tmp_path: Path) -> None:
    """Whatever travelled as JSON, and wherever the project lies; sources and measured cells never travel."""
    mine = {label: cell for label, cell in planned.items() if not elsewhere.stays(cell)}
    assert len(planned) - len(mine) == 4
    for cell in mine.values():
        here = adopt(cell, tmp_path / "elsewhere")
        assert (here.key, here.inputs, here.group) == (cell.key, cell.inputs, cell.group)
        assert here.env.project == str(tmp_path / "elsewhere")


def changed(cell: Cell, name: str, value: str) -> Cell:
    """The cell as a machine planned it on which one ingredient is another."""
    return Cell(**{**cell.__dict__, "key": "0" * 32, "ingredients": {**cell.ingredients, name: value}})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("code.assay.tasks.training", "0" * 16, r"source of assay\.tasks\.training changed \(.*tasks/training\.py\)"),
        ("version.torch", "1.0.0", r"torch 1\.0\.0 → "),
        ("env.python", "3.9.", r"python 3\.9\. → "),
        ("code.assay.plugins.gone", "0" * 16, r"source of assay\.plugins\.gone is gone"),
    ],
)
def test_what_differs_is_named(planned: dict[str, Cell], name: str, value: str, words: str) -> None:
    with pytest.raises(Refused, match=rf"refuses 'train dense': {words}.*: give this machine the code"):
        adopt(changed(planned["train dense"], name, value), Path.cwd())


def test_a_method_that_is_not_installed(planned: dict[str, Cell]) -> None:
    cell = planned["train dense"]
    spec = json.loads(json.dumps(cell.spec).replace("train/optimizer/adamw", "train/optimizer/theirs"))
    with pytest.raises(Refused, match=r"refuses 'train dense': .*theirs"):
        adopt(Cell(**{**cell.__dict__, "spec": spec}), Path.cwd())


def test_a_device_that_is_not_there(planned: dict[str, Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cell = Cell(**{**planned["train dense"].__dict__, "env": Env("cuda", 1, ".")})
    with pytest.raises(Refused, match="it was planned for cuda, and there is none here"):
        adopt(cell, Path.cwd())


@pytest.mark.parametrize("label", ["prepare source/digits", "evaluate dense cost/latency"])
def test_what_belongs_to_the_planner(planned: dict[str, Cell], label: str) -> None:
    with pytest.raises(Refused, match="belongs to the machine that planned it"):
        adopt(planned[label], Path.cwd())


def test_a_refused_group_computes_nothing(planned: dict[str, Cell], tmp_path: Path) -> None:
    bad = changed(planned["train dense"], "version.torch", "1.0.0")
    place = Place(tmp_path, tmp_path / "store")
    answer = compute_group([planned["train random"], bad], place, None, "a test", "")
    assert answer.outcome is not None
    assert (answer.outcome.status, answer.computed) == ("failed", {})
    assert "refuses" in answer.outcome.message
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize("name", ["", "../../x", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "/x"])
def test_names_of_groups(name: str) -> None:
    with pytest.raises(BadInput):
        folder_of(name)
    assert folder_of("0" * 32) == f"groups/{'0' * 32}"


# the parent


class MadeUp:
    """A pool without a server: each group is handed to a function in a thread, and its state is what that says."""

    name, url = "made-up", "http://127.0.0.1:9/api"

    def __init__(self, behave: Callable[[MadeUp, uuid.UUID, str], None]):
        self.behave = behave
        self.states: dict[uuid.UUID, str] = {}
        self.groups: list[str] = []
        self.ended: list[tuple[uuid.UUID, bool]] = []

    def submit(self, label: str, group: str, parameters: Any) -> uuid.UUID:
        run = uuid.uuid4()
        self.states[run] = "scheduled"
        self.groups.append(label)
        threading.Thread(target=self.behave, args=(self, run, f"groups/{group}"), daemon=True).start()
        return run

    def state(self, run: uuid.UUID) -> Any:
        now = self.states[run]
        return SimpleNamespace(
            name=now,
            message=f"made {now}",
            is_scheduled=lambda: now == "scheduled",
            is_crashed=lambda: now == "crashed",
            is_final=lambda: now in ("crashed", "failed", "completed", "cancelled"),
        )

    def end(self, run: uuid.UUID, why: str, died: bool) -> None:
        self.ended.append((run, died))

    def lonely(self) -> bool:
        return True


class Room:
    """A parent's store, the remote, and what a machine elsewhere does with a group."""

    def __init__(self, folder: Path):
        self.store = Store(folder / "parent")
        self.remote = Remote(f"file://{folder / 'remote'}", self.store)
        self.other = Remote(f"file://{folder / 'remote'}", Store(folder / "other"))
        self.said: list[str] = []

    def cells(self, *names: str, **inputs: Cell) -> list[Cell]:
        """Made-up cells of one group."""
        refs = {role: cell.ref for role, cell in inputs.items()}
        return [
            Cell("train", "train", name, "x:y", {}, refs, name, {}, "group", env=Env("cpu", 1, ".")) for name in names
        ]

    def compute(self, cell: Cell) -> None:
        """What the other machine does with one cell."""
        for ref in cell.inputs.values():
            assert self.other.fetch(ref)
        _, out = self.other.store.begin(cell.key)
        write_json(out / "answer.json", cell.key)
        self.other.store.commit(cell.slot, cell.key, {"label": cell.label})
        self.other.push(cell.ref)

    def answer(self, folder: str, outcome: Outcome | None, computed: dict[str, float]) -> None:
        """Writes what came of a group."""
        self.other.write(f"{folder}/answer.json", json.dumps(Answer(outcome, computed).to_json()))

    def group(self, folder: str) -> list[Cell]:
        """The cells of a group."""
        return cells_from_text(self.other.read(f"{folder}/cells.json") or "[]")

    def executor(self, behave: Callable[[MadeUp, uuid.UUID, str], None]) -> PoolExecutor:
        """The parent's executor."""
        pool: Any = MadeUp(behave)
        return PoolExecutor(
            self.store, self.store.root, 1, 1, "a test", remote=self.remote, pool=pool, say=self.said.append
        )


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """A room where everything happens faster."""
    for name, seconds in (("POLL", 0.02), ("LOST", 3.0), ("START", 3.0), ("LONELY", 0.1)):
        monkeypatch.setattr(pool_module, f"{name}_SECONDS", seconds)
    return Room(tmp_path)


def test_a_group_is_computed_and_comes_back(room: Room) -> None:
    (given,) = room.cells("given")
    _, out = room.store.begin(given.key)
    write_json(out / "answer.json", "given")
    room.store.commit(given.slot, given.key, {"label": "given"})
    one, two = room.cells("one", "two", model=given)

    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        pool.states[run] = "running"
        for cell in room.group(folder):
            room.compute(cell)
        room.answer(folder, None, {"one": 1.5})

    with room.executor(behave) as executor:
        executor.run([one, two])
    assert executor.computed == 1  # the other was there already, it says
    assert room.store.damage(one.slot, one.key) == room.store.damage(two.slot, two.key) == []
    assert room.remote.fs.find(f"{room.remote.root}/groups") == []


def test_a_process_that_dies_is_followed_by_another(room: Room) -> None:
    """What it finished is not computed again; after the third in a row that gets no further the run fails."""
    one, two = room.cells("one", "two")
    handed: list[list[str]] = []

    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        cells = room.group(folder)
        handed.append([cell.label for cell in cells])
        pool.states[run] = "running"
        if len(handed) == 1:
            room.compute(cells[0])
        if len(handed) < 4:
            pool.states[run] = "crashed"
        else:
            room.compute(cells[0])
            room.answer(folder, None, {"two": 1.0})

    with room.executor(behave) as executor:
        executor.run([one, two])
    assert handed == [["one", "two"], ["two"], ["two"], ["two"]]
    assert executor.computed == 2

    def always(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        pool.states[run] = "crashed"

    with room.executor(always) as executor, pytest.raises(CellFailed, match=r"its process died 4 times.*made crashed"):
        executor.run(room.cells("three"))


@pytest.mark.parametrize("beats", [0, 2])
def test_a_machine_of_which_nothing_is_heard(room: Room, beats: int) -> None:
    """It lost power before or after it began: the server still says that its flow run goes on."""

    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        pool.states[run] = "running"
        if len(pool.groups) == 1:
            for i in range(beats):
                room.other.write(f"{folder}/beat", str(i))
                time.sleep(0.1)
            return
        for i in range(20):  # longer than a silence may last
            room.other.write(f"{folder}/beat", str(i))
            time.sleep(0.2)
        room.compute(room.group(folder)[0])
        room.answer(folder, None, {"one": 2.0})

    with room.executor(behave) as executor:
        executor.run(room.cells("one"))
    assert executor.computed == 1
    assert [died for _, died in executor.pool.ended] == [True]  # type: ignore[attr-defined]


def test_trainings_that_are_asked_for_are_groups_of_their_own(room: Room) -> None:
    asking, first, second = (room.cells(name)[0] for name in ("asking", "first", "second"))
    handed: list[list[str]] = []

    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        pool.states[run] = "running"
        cells = room.group(folder)
        handed.append([cell.label for cell in cells])
        missing = [cell for cell in (first, second) if not room.other.present([cell.ref])]
        if cells[0].label == "asking" and missing:
            pending = tuple(cell.to_json() for cell in missing)
            room.answer(folder, Outcome("asking", "pending", pending=pending), {})
            return
        room.compute(cells[0])
        room.answer(folder, None, {cells[0].key: 0.1})

    with room.executor(behave) as executor:
        executor.run([asking])
    assert handed[0] == handed[-1] == ["asking"]
    assert sorted(handed[1:-1]) == [["first"], ["second"]]
    assert executor.computed == 3


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_flow_run_that_ends_without_an_answer(room: Room, state: str) -> None:
    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        pool.states[run] = state

    with (
        room.executor(behave) as executor,
        pytest.raises(CellFailed, match=f"one: its flow run ended as {state}: made"),
    ):
        executor.run(room.cells("one"))


def test_a_failure_there_is_a_failure_here(room: Room) -> None:
    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        room.answer(folder, Outcome("one", "failed", message="one: the data are wrong", code=2), {})

    with room.executor(behave) as executor, pytest.raises(CellFailed, match=r"^one: the data are wrong$") as caught:
        executor.run(room.cells("one"))
    assert caught.value.code == 2


def test_nobody_is_there(room: Room) -> None:
    """It says so once, and waits; when the run is stopped what it handed out is taken back."""
    with room.executor(lambda pool, run, folder: None) as executor:

        def wait() -> None:
            with pytest.raises(Stopped):
                executor.run(room.cells("one"))

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        executor.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert [died for _, died in executor.pool.ended] == [False]  # type: ignore[attr-defined]
    assert room.said == ["no worker of pool made-up is up: `assay worker --pool made-up` starts one; waiting"]
    assert room.remote.fs.find(f"{room.remote.root}/groups") == []


def test_an_artifact_that_is_damaged_on_its_way(room: Room) -> None:
    """It counts as a process that died: the next one finds its own copy, and sends it again."""

    def behave(pool: MadeUp, run: uuid.UUID, folder: str) -> None:
        (cell,) = room.group(folder)
        if len(pool.groups) == 1:
            room.compute(cell)
            (path,) = [p for p in room.other.fs.find(f"{room.other.root}/train") if p.endswith("answer.json")]
            room.other.fs.pipe_file(path, b"spoilt")
        else:
            Remote(room.other.url, room.other.store).push(cell.ref)
        room.answer(folder, None, {})

    with room.executor(behave) as executor:
        executor.run(room.cells("one"))
        assert executor.pool.groups == ["group", "group"]  # type: ignore[attr-defined]
    assert "damaged in the remote" in room.remote.notes[0]
    assert room.store.damage("train", "one") == []
