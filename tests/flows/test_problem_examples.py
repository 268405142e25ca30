"""The params files of examples/problems: one of each problem, all of it can be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.flows.session import open_session
from assay.plugins import registry
from assay.tasks.askable import problem_name

FILES = sorted((Path(__file__).parents[2] / "examples" / "problems").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_plans_whole(path: Path, tmp_path: Path) -> None:
    session = open_session(path, project=tmp_path)
    assert problem_name(session.params.prepare) == path.stem
    assert session.plan.evaluation
    assert session.plan.skipped == []


def test_every_problem_has_an_example() -> None:
    problems = {id.partition("/")[2] for id in registry.index().entries if id.startswith("problems/")}
    assert problems == {path.stem for path in FILES}
