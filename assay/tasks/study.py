"""The cells of `study` and `search`: a method that experiments with many trainings, given the lab."""

from __future__ import annotations

from assay.tasks.artifacts import save_result, write_json
from assay.tasks.job import Job
from assay.tasks.lab import CellLab

ANSWER, TRAININGS = "answer.json", "trainings.json"


def lab_of(job: Job) -> CellLab:
    """The lab of a cell that has one."""
    assert isinstance(job.lab, CellLab)
    return job.lab


def study(job: Job) -> None:
    """A study's table as a result, and its verdict in words."""
    method, lab = job.method(), lab_of(job)
    result, verdict = method.study(lab, job.context(lab.data.spec, method.method_name()))
    save_result(job.out, result)
    write_json(job.out / ANSWER, {"verdict": verdict})
    write_json(job.out / TRAININGS, list(lab.trained.values()))


def search(job: Job) -> None:
    """A search's table as a result, and the changes of the recipe that it found best."""
    method, lab = job.method(), lab_of(job)
    context = job.context(lab.data.spec, method.method_name())
    changes, result = method.search(job.spec["space"], lab, context)
    save_result(job.out, result)
    write_json(job.out / ANSWER, {"changes": dict(changes)})
    write_json(job.out / TRAININGS, list(lab.trained.values()))
