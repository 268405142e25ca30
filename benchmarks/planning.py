"""Planning many runs, and checking a large artifact.

    python benchmarks/planning.py [--quick] [--json]

On the repository's demo: 500 params files that differ in one value (a learning rate) are read, validated and
planned, one after the other in one process; and the same 500 points are planned as one sweep, up to the groups
of cells that it would compute. The artifact of 1 GB is one large `.npy` beside a small
one; `check` compares all its files with the manifest, `data digest` is DVC's hash of the folder, which a
plan needs, with its memory (by size, time and inode) empty.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rows import Row, run_script

REPOSITORY = Path(__file__).resolve().parent.parent
GIGABYTE = 10**9


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def medians(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds of a call."""
    took = [timed(call) for _ in range(rounds)]
    return statistics.median(wall for wall, _ in took), statistics.median(cpu for _, cpu in took)


def files_row(folder: Path, count: int) -> Row:
    """500 params files that differ in one value; fewer are scaled up."""
    from assay.tasks.params import read
    from assay.tasks.plan import make_plan

    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    given = "lr: 2.0e-3"
    if given not in text:
        raise SystemExit(f"params.yaml has no {given!r} any more: name another value here")
    files = [folder / f"{i}.yaml" for i in range(count)]
    for i, file in enumerate(files):
        file.write_text(text.replace(given, f"lr: {2e-3 + 1e-6 * i:.6e}"), encoding="utf-8")
    ids: set[str] = set()

    def plan(some: list[Path]) -> None:
        for file in some:
            ids.add(make_plan(read(file), folder, "cpu").id)

    first, rest = timed(lambda: plan(files[:1])), timed(lambda: plan(files[1:]))
    if len(ids) != count:
        raise SystemExit(f"{count} params gave {len(ids)} plans")
    wall, cpu = (begin + 499 / (count - 1) * rest for begin, rest in zip(first, rest, strict=True))
    note = "" if count == 500 else f"{count} measured, scaled"
    return Row("planning 500 params files", wall, 10.0, cpu=cpu, note=note)


def points_row(folder: Path, count: int) -> Row:
    """A sweep of 500 points that differ in one value, planned as one; fewer are scaled up."""
    from assay.flows.sweep import groups, plan_sweep

    (folder / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    points = [{"train.optimizer.lr": 2e-3 + 1e-6 * i} for i in range(count)]
    trainings: set[str] = set()

    def plan(some: list[dict[str, float]]) -> None:
        sweep = plan_sweep(some, folder / "params.yaml")
        found = groups.group(sweep.cells, sweep.missing(sweep.statuses()))
        trainings.update(cell.key for cells in found.values() for cell in cells if cell.label == "train dense")

    first, rest = timed(lambda: plan(points[:1])), timed(lambda: plan(points))
    if len(trainings) != count:
        raise SystemExit(f"{count} points gave {len(trainings)} trainings")
    wall, cpu = (begin + 500 / count * all_ for begin, all_ in zip(first, rest, strict=True))
    return Row("planning a sweep of 500 points", wall, 10.0, cpu=cpu, note="" if count == 500 else f"{count}, scaled")


def artifact_rows(folder: Path, rounds: int) -> list[Row]:
    """The check of an artifact of 1 GB, and the digest of a data set of 1 GB."""
    from assay.tasks.store import Store
    from assay.tasks.versions import folder_hash

    store = Store(folder / ".assay" / "store")
    _, out = store.begin("key")
    block = os.urandom(10**7)
    with open(out / "train.x.npy", "wb") as file:
        for _ in range(GIGABYTE // len(block)):
            file.write(block)
    (out / "train.y.npy").write_bytes(block[:480_000])
    store.commit("prepare/source", "key", {})

    def check() -> None:
        if store.damage("prepare/source", "key"):
            raise SystemExit("the artifact is damaged")

    wall, cpu = medians(check, rounds)
    rows = [Row("check of an artifact of 1 GB", wall, 3.0, cpu=cpu)]
    (folder / "data").mkdir()
    store.folder("prepare/source", "key").rename(folder / "data" / "large")

    def digest() -> None:
        shutil.rmtree(folder / ".assay" / "cache", ignore_errors=True)
        folder_hash(folder, "large")

    wall, cpu = medians(digest, rounds)
    rows.append(Row("data digest of 1 GB, never seen", wall, 3.0, cpu=cpu))
    wall, cpu = medians(lambda: folder_hash(folder, "large"), rounds)
    rows.append(Row("data digest of 1 GB, known", wall, 3.0, cpu=cpu))
    return rows


def measure(quick: bool) -> list[Row]:
    """Every row."""
    with tempfile.TemporaryDirectory(prefix="assay-planning-") as temporary:
        root = Path(temporary)
        count = 50 if quick else 500
        return [files_row(root, count), points_row(root, count), *artifact_rows(root, 1 if quick else 3)]


if __name__ == "__main__":
    run_script(__doc__, measure)
