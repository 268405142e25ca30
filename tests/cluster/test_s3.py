"""The store's remote on an S3 server: what goes there comes back, and what is wrong is said before the work."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from assay.tasks.cells import Ref
from assay.tasks.remote import Remote, RemoteFailed
from assay.tasks.store import Store

pytestmark = pytest.mark.cluster

REF = Ref("compress/prune", "1" * 32)


@pytest.fixture
def reach(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reaches the server as its environment says."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def url(tmp_path: Path, bucket: str, reach: None) -> str:
    """A prefix of its own."""
    return f"s3://{bucket}/{tmp_path.name}"


def compute(store: Store, content: bytes) -> None:
    _, out = store.begin(REF.key)
    (out / "links" / "0").mkdir(parents=True)
    for name in ("model.safetensors", "links/0/record.json", "odd [1]*.txt"):
        (out / name).write_bytes(content * 1000)
    store.commit(REF.slot, REF.key, {"label": "made up", "started": str(store.root)})


def test_there_and_back(url: str, tmp_path: Path) -> None:
    one, other = (Remote(url, Store(tmp_path / name)) for name in ("one", "other"))
    one.ready()
    compute(one.store, b"one")
    assert other.present([REF]) == set()
    one.push(REF)
    other.ready()
    assert other.present([REF]) == {REF}
    assert other.fetch(REF)
    assert other.store.damage(REF.slot, REF.key) == []
    assert other.store.manifest(REF.slot, REF.key) == one.store.manifest(REF.slot, REF.key)
    one.drop(REF)
    assert Remote(url, Store(tmp_path / "third")).present([REF]) == set()
    other.write("groups/0/cells.json", "[]")
    other.clear("groups/0")
    other.clear("groups/0")
    assert other.read("groups/0/cells.json") is None


def test_many_at_once(url: str, tmp_path: Path) -> None:
    """What a reader gets is one machine's artifact, whole."""
    remotes = [Remote(url, Store(tmp_path / f"m{i}")) for i in range(3)]
    for i, remote in enumerate(remotes):
        compute(remote.store, bytes([i]))
    threads = [threading.Thread(target=remote.push, args=[REF]) for remote in remotes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = Remote(url, Store(tmp_path / "reader"))
    assert reader.fetch(REF)
    assert reader.store.damage(REF.slot, REF.key) == []


def test_no_such_bucket(reach: None, tmp_path: Path) -> None:
    """Nothing is made in somebody's account because of a typing error."""
    remote = Remote("s3://no-such-bucket/x", Store(tmp_path))
    with pytest.raises(RemoteFailed, match=r"store\.remote s3://no-such-bucket/x: there is no such place"):
        remote.ready()
    assert not remote.fs.exists("no-such-bucket")


def test_the_server_is_away(reach: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote = Remote("s3://bucket/away", Store(tmp_path))
    remote.fs.clear_instance_cache()
    with pytest.raises(RemoteFailed, match=r"store\.remote s3://bucket/away: .*127\.0\.0\.1"):
        Remote("s3://bucket/away", Store(tmp_path)).ready()
    remote.fs.clear_instance_cache()


def test_no_credentials(reach: None, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    Remote(f"s3://{bucket}/none", Store(tmp_path)).fs.clear_instance_cache()
    with pytest.raises(RemoteFailed, match=r"store\.remote .*[Cc]redentials"):
        Remote(f"s3://{bucket}/none", Store(tmp_path)).ready()
    Remote(f"s3://{bucket}/none", Store(tmp_path)).fs.clear_instance_cache()
