"""The conformance suite: what every method promises, asked of one method, a package, or all of them.

    from assay.plugins import testing

    for outcome in testing.check("attribute/saliency/gradient"):
        assert outcome.ok, outcome.message

Everything that the methods are tried on is made here from seeds (`worlds`), so the suite needs no data,
no network and no other method, and takes well under a second a method. A third party runs the same
checks on its own package.

A method is tried with its defaults, or with the first of a field's `examples`: give
`Field(examples=[...])` to a parameter that has no default, or whose default is too dear to try. A source
that asks for `ctx.folder` downloads: it is loaded only where the variable ASSAY_DOWNLOADS names a folder
with its files. A required parameter without an example, and a card's problem or modality of which the
suite has no data, skip what needs them, with the reason.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import gc
import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from assay.plugins import registry
from assay.plugins.testing import after, general, judges, learners, links, loop, prepare, train, updates
from assay.plugins.testing.base import CHECKS, Case, Check, Failed, Skipped

__all__ = ["Case", "Check", "Failed", "Outcome", "Skipped", "ask", "check", "checks_for", "run"]

LOADS = "loads"
MODULES = (after, general, judges, learners, links, loop, prepare, train, updates)
"""Where the checks are; importing them fills CHECKS."""


@dataclass(frozen=True)
class Outcome:
    """What one check found: `ok` unless a promise is broken; `message` says how, or why it was skipped."""

    method: str
    check: str
    ok: bool
    message: str = ""
    skipped: bool = False


@functools.lru_cache(maxsize=64)
def case(id: str) -> Case:
    """The method under test. Raises Failed where it cannot be used, Skipped where only an optional
    library is missing."""
    try:
        return Case(id, registry.find(id), registry.load(id))
    except registry.UnknownMethod as error:
        if isinstance(error.__cause__, ImportError) and "pip install" in str(error):
            raise Skipped(str(error)) from error
        raise Failed(str(error)) from error


def loads(id: str) -> None:
    """Its file is imported and defines exactly one method of its slot."""
    case(id)


def checks_for(id: str) -> list[Check]:
    """The checks that hold for a method, by its id alone: nothing is imported of it."""
    first = Check(LOADS, "", loads.__doc__ or "", lambda found: None)
    return [first, *(check for check in CHECKS if check.holds_for(id))]


def ask(id: str, check: Check) -> Outcome:
    """One check's outcome on one method. Never raises; leaves the global generators as they were."""
    try:
        with surroundings_kept():
            check.ask(case(id))
    except Skipped as reason:
        return Outcome(id, check.name, True, str(reason), skipped=True)
    except Failed as error:
        return Outcome(id, check.name, False, str(error))
    except Exception as error:
        return Outcome(id, check.name, False, f"it raises {type(error).__name__}: {error}")
    return Outcome(id, check.name, True)


def run(id: str) -> list[Outcome]:
    """All checks of one method; only the first where it cannot be loaded."""
    first, *others = checks_for(id)
    loaded = ask(id, first)
    if loaded.skipped or not loaded.ok:
        return [loaded]
    return [loaded, *(ask(id, check) for check in others)]


def check(target: str) -> list[Outcome]:
    """The suite on a method (its id, or its name where only one has it) or on a whole distribution or
    package. What is wrong is reported, never raised."""
    index = registry.index()
    if target in index.entries:
        return run(target)
    mine = [
        entry.id
        for entry in index.entries.values()
        if normal(target) in (normal(entry.dist), normal(entry.module.split(".")[0]))
    ]
    broken = {
        name: reason
        for name, reason in index.broken_packages.items()
        if normal(target) == normal(name.rsplit(" of ", 1)[-1])
    }
    twice = {id: both for id, both in index.claimed_twice.items() if normal(target) in map(normal, both)}
    if mine or broken or twice:
        return [
            *(Outcome(name, "listed", False, f"the package cannot be listed: {r}") for name, r in broken.items()),
            *(Outcome(id, "listed", False, f"claimed by two distributions: {', '.join(twice[id])}") for id in twice),
            *(outcome for id in mine if id not in twice for outcome in run(id)),
        ]
    ending = [id for id in index.entries if id.endswith("/" + target)]
    if len(ending) == 1:
        return run(ending[0])
    return [Outcome(target, "found", False, not_found(target, ending))]


def not_found(target: str, ending: list[str]) -> str:
    """What to say of a target that is neither one method nor a distribution with methods."""
    if ending:
        return f"several methods are called '{target}': {', '.join(ending)}"
    entries = registry.index().entries.values()
    known = {*(e.id for e in entries), *(e.dist for e in entries)}
    close = difflib.get_close_matches(target, sorted(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`assay methods list` shows all"
    return f"'{target}' is no method and no distribution with methods; {hint}"


def normal(name: str) -> str:
    """A distribution's name as packaging compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """Puts the global generators back, whatever a check does with them, and keeps warnings to itself."""
    python, numpy = random.getstate(), np.random.get_state()
    # A method that collects garbage before it measures would walk all of torch's objects each time.
    frozen_before = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not frozen_before:
            gc.unfreeze()
        random.setstate(python)
        np.random.set_state(numpy)
