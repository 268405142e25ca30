"""The store's remote: what goes there, what comes from there, and what happens when it is damaged or away."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import assay
from assay.flows.cli import main
from assay.plugins.values import BadInput
from assay.tasks.cells import Ref
from assay.tasks.params import Params
from assay.tasks.remote import MARKER, Remote, RemoteFailed, open_remote
from assay.tasks.store import MANIFEST, Store, sealed

REF = Ref("train", "0" * 32)
FILES = {"model.safetensors": b"weights", "checkpoints/1.safetensors": b"early", "[a]*.txt": b"odd name"}


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty remote in memory, and in a folder."""
    if request.param == "file":
        yield f"file://{tmp_path / 'remote'}"
    else:
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").store.clear()


@pytest.fixture
def machine(tmp_path: Path, url: str) -> Callable[[str], Remote]:
    """A machine with a store of its own, and the same remote."""
    return lambda name: Remote(url, Store(tmp_path / name))


def compute(store: Store, files: dict[str, bytes] = FILES, ref: Ref = REF) -> None:
    """Commits an artifact."""
    _, out = store.begin(ref.key)
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    store.commit(ref.slot, ref.key, {"label": "made up", "started": str(store.root)})


def contents(store: Store, ref: Ref = REF) -> dict[str, bytes]:
    folder = store.folder(ref.slot, ref.key)
    return {name: (folder / name).read_bytes() for name in store.manifest(ref.slot, ref.key)["files"]}


def test_from_one_machine_to_another(machine: Callable[[str], Remote]) -> None:
    one, other = machine("one"), machine("other")
    one.ready()
    compute(one.store)
    assert (other.present([REF]), other.fetch(REF)) == (set(), False)
    one.push(REF)
    other.ready()
    assert other.present([REF]) == {REF}
    assert other.fetch(REF)
    assert contents(other.store) == FILES
    assert other.store.damage(REF.slot, REF.key) == []
    assert other.store.manifest(REF.slot, REF.key) == one.store.manifest(REF.slot, REF.key)
    assert not other.store.work(REF.key).exists()


def test_files_first_the_manifest_last(machine: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is killed while it sends leaves nothing that another would take for an artifact."""
    one, other = machine("one"), machine("other")
    compute(one.store)
    sent = 0
    put = one.fs.put_file

    def break_off(source: str, target: str, *rest: Any, **options: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 1:
            raise ConnectionResetError("cut")
        put(source, target, *rest, **options)

    monkeypatch.setattr(one.fs, "put_file", break_off)
    with pytest.raises(RemoteFailed, match=r"store\.remote .*cut"):
        one.push(REF)
    assert other.present([REF]) == set()
    monkeypatch.undo()
    one.push(REF)
    assert other.fetch(REF)


def test_the_first_manifest_wins(machine: Callable[[str], Remote]) -> None:
    one, other, third = machine("one"), machine("other"), machine("third")
    compute(one.store, {"answer": b"one"})
    compute(other.store, {"answer": b"other"})
    one.push(REF)
    other.push(REF)
    assert third.fetch(REF)
    assert contents(third.store) == {"answer": b"one"}
    assert contents(other.store) == {"answer": b"other"}  # its own stays: it is as good


def test_two_that_send_at_once_do_not_mix(machine: Callable[[str], Remote], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each found nothing there; whichever manifest is there in the end, its files are its own."""
    machines = [machine(f"m{i}") for i in range(4)]
    gate = threading.Barrier(len(machines))
    for i, remote in enumerate(machines):
        compute(remote.store, {"a": bytes([i]) * 999, "b": bytes([i]) * 9})
        monkeypatch.setattr(remote, "_manifest", lambda ref: None)

    def send(remote: Remote) -> None:
        gate.wait(20)
        remote.push(REF)

    threads = [threading.Thread(target=send, args=[remote]) for remote in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = machine("reader")
    assert reader.fetch(REF)
    assert len({content[0] for content in contents(reader.store).values()}) == 1


def spoil(remote: Remote, name: str, content: bytes | None) -> None:
    """Changes a file of the artifact in the remote, or removes it."""
    (path,) = [p for p in remote.fs.find(f"{remote.root}/{REF.slot}") if p.endswith(name)]
    remote.fs.rm_file(path) if content is None else remote.fs.pipe_file(path, content)


@pytest.mark.parametrize("content", [b"weightz", b"longer than it was", None])
def test_damaged_there(machine: Callable[[str], Remote], content: bytes | None) -> None:
    """It is named, never taken, and goes, so that the next machine that computes it mends it."""
    one, other = machine("one"), machine("other")
    compute(one.store)
    one.push(REF)
    spoil(one, "model.safetensors", content)
    assert not other.fetch(REF)
    assert "model.safetensors" in other.notes[0]
    assert not other.store.has(REF.slot, REF.key)
    assert not other.store.work(REF.key).exists()
    assert machine("third").present([REF]) == set()
    compute(other.store)
    other.push(REF)
    assert machine("third").fetch(REF)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"digest": 1}', b"\xff\xfe"])
def test_a_manifest_that_is_none(machine: Callable[[str], Remote], text: bytes) -> None:
    one = machine("one")
    compute(one.store)
    one.push(REF)
    spoil(one, MANIFEST, text)
    again = machine("one")
    assert again.present([REF]) == set()
    again.push(REF)
    assert machine("other").fetch(REF)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/../../evil", "..\\evil", MANIFEST])
def test_names_cannot_leave_their_folder(machine: Callable[[str], Remote], name: str) -> None:
    one = machine("one")
    compute(one.store)
    manifest = one.store.manifest(REF.slot, REF.key)
    manifest["files"] = {name: {"size": 1, "sha256": "0" * 64}}
    one.write(f"{REF.slot}/{REF.key}/{MANIFEST}", sealed(manifest))
    assert not machine("other").fetch(REF)


def test_another_artifact_s_manifest(machine: Callable[[str], Remote]) -> None:
    one, key = machine("one"), "1" * 32
    compute(one.store)
    one.push(REF)
    one.write(f"train/{key}/{MANIFEST}", one.read(f"{REF.slot}/{REF.key}/{MANIFEST}") or "")
    assert one.present([Ref("train", key)]) == set()


def test_another_process_has_the_key(machine: Callable[[str], Remote]) -> None:
    one, other = machine("one"), machine("other")
    compute(one.store)
    one.push(REF)
    with other.store.lock(REF.key):
        result: list[bool] = []
        thread = threading.Thread(target=lambda: result.append(other.fetch(REF)))
        thread.start()
        thread.join()
        assert result == [False]
    assert other.fetch(REF)


def test_a_training_that_was_cut_off_stays_resumable(machine: Callable[[str], Remote]) -> None:
    """What comes from elsewhere replaces it only once it is here."""
    one, other = machine("one"), machine("other")
    compute(one.store)
    one.push(REF)
    spoil(one, "model.safetensors", b"weightz")
    work, _ = other.store.begin(REF.key)
    (work / "resume.safetensors").write_bytes(b"half")
    assert not other.fetch(REF)
    assert (work / "resume.safetensors").exists()
    assert not (work / "incoming").exists()


def test_an_unknown_format(machine: Callable[[str], Remote]) -> None:
    machine("one").write(MARKER, '{"format": 2}')
    with pytest.raises(RemoteFailed, match="this Assay reads"):
        machine("one").ready()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bucket/prefix", "give a URL, as s3://bucket/prefix"),
        ("ftp://ann:pa55@host/x", "by environment"),
        ("nowhere://x", "Protocol not known: nowhere; fsspec knows"),
        ("simplecache::file:///x", "give a URL"),
    ],
)
def test_bad_urls(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        open_remote(url, Store(tmp_path))
    assert "pa55" not in str(caught.value)
    assert open_remote("", Store(tmp_path)) is None


def test_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = sys.modules["fsspec.registry"]  # fsspec has a mapping of that name
    monkeypatch.setitem(registry.known_implementations, "s3", {"class": "not_there.S3", "err": "no s3fs"})
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(BadInput, match=r"pip install 'assay\[s3\]'"):
        open_remote("s3://bucket/prefix", Store(tmp_path))


def test_it_is_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    remote = Remote(f"file://{tmp_path / 'file'}/x", Store(tmp_path / "store"))
    with pytest.raises(RemoteFailed, match=r"^store\.remote file:"):
        remote.ready()


# whole runs


def artifacts(folder: Path) -> dict[str, Any]:
    store = Store(folder / ".assay" / "store")
    return {f"{slot}/{key}": store.manifest(slot, key)["files"] for slot, key, _ in store.artifacts()}


def test_runs_on_two_machines(project: Any, tmp_path: Path) -> None:
    """The second computes nothing and says the same; a third, which the remote only half serves, the rest."""
    url = f"file://{tmp_path / 'remote'}"
    project.tree["store"] = {"remote": url}
    folders = [project.folder / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    one, two = (assay.run(project.tree, project=folder, prefect=False, track=False) for folder in folders[:2])
    assert one.computed == one.total
    assert two.computed == 0
    assert two.summary.to_json() == one.summary.to_json()
    first, second = artifacts(folders[0]), artifacts(folders[1])
    assert second.items() <= first.items()
    asked = {name for name in first if name not in second}
    assert {name.split("/")[0] for name in asked} == {"train", "prepare"}  # no answer needs what only a link asked for

    remote = Remote(url, Store(folders[2] / ".assay" / "store"))
    saliency = [name for name in first if name.startswith("attribute/saliency")]
    for name in saliency:
        remote.drop(Ref(*name.rsplit("/", 1)))
    three = assay.run(project.tree, project=folders[2], prefect=False, track=False)
    assert three.computed == len(saliency)
    assert three.summary.to_json() == one.summary.to_json()
    again = assay.run(project.tree, project=folders[0], prefect=False, track=False, force=["train dense"])
    assert again.computed == 1
    assert remote.present([Ref(*name.rsplit("/", 1)) for name in first]) == {
        Ref(*name.rsplit("/", 1)) for name in first
    }


def test_a_remote_that_comes_later_and_is_damaged(project: Any, tmp_path: Path) -> None:
    """It gets what was computed before; what is damaged there is named, computed again and mended."""
    one = assay.run(project.tree, project=project.folder, prefect=False, track=False)
    project.tree["store"] = {"remote": f"file://{tmp_path / 'remote'}"}
    assert assay.run(project.tree, project=project.folder, prefect=False, track=False).computed == 0
    for path in (tmp_path / "remote" / "train").rglob("model.safetensors"):
        path.write_bytes(b"spoilt")
    results = []
    for name in ("two", "three"):
        (tmp_path / name).mkdir()
        results.append(assay.run(project.tree, project=tmp_path / name, prefect=False, track=False))
        assert results[-1].summary.to_json() == one.summary.to_json()
    assert any("was damaged in the remote (model.safetensors) and taken out" in note for note in results[0].notes)
    assert 0 < results[0].computed < one.computed
    assert (results[1].computed, results[1].notes) == (0, [])


def test_plan_asks_the_remote_only_when_told(project: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def plan(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main(["plan", "--json", *arguments])
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    project.tree["store"] = {"remote": f"file://{tmp_path / 'remote'}"}
    project.write()
    assay.run(str(project.params), prefect=False, track=False)
    shutil.rmtree(project.folder / ".assay" / "store")
    assert any(cell["run"] for cell in plan()["cells"])
    assert not any(cell["run"] for cell in plan("--remote")["cells"])
    forced = [cell["cell"] for cell in plan("--remote", "--force", "train dense")["cells"] if cell["run"]]
    assert forced == ["train dense"]


def test_plan_without_a_remote(project: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--remote"])
    assert ended.value.code == 2
    assert "name no store.remote" in capsys.readouterr().err


def test_the_remote_is_in_no_key(project: Any) -> None:
    from assay.flows.session import open_session

    before = open_session(project.tree, project=project.folder).plan.id
    project.tree["store"] = {"remote": f"file://{project.folder / 'remote'}"}
    assert open_session(project.tree, project=project.folder).plan.id == before
    assert Params.model_fields["store"].default.remote == ""
