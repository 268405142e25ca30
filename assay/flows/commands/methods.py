"""methods list, show, new, check."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from assay.plugins import registry


def methods_list(slot: str, as_json: bool) -> None:
    """Lists the methods whose id begins with `slot`. Imports none of them."""
    found = registry.index()
    entries = [e for e in found.entries.values() if e.id.startswith(slot)]
    if not entries:
        slots = ", ".join(sorted({e.slot for e in found.entries.values()}))
        raise registry.UnknownMethod(f"no method's id begins with '{slot}': slots are {slots}")
    if as_json:
        print(
            json.dumps(
                [{"id": e.id, "title": e.title, "distribution": e.dist, "broken": e.broken} for e in entries], indent=1
            )
        )
        return
    console = Console()
    shown = Table(Column("method", no_wrap=True), "title", "from", box=None, pad_edge=False)
    for e in entries:
        shown.add_row(e.id, f"[red]broken: {escape(e.broken)}[/]" if e.broken else escape(e.title), e.dist)
    console.print(shown)
    for id, (first, second) in found.claimed_twice.items():
        console.print(f"[red]{id} is claimed by {first} and {second}[/]", highlight=False)
    for package, reason in found.broken_packages.items():
        console.print(f"[red]package {package} is broken: {escape(reason)}[/]", highlight=False)
    console.print(f"{len(entries)} methods", highlight=False)


def methods_show(id: str, as_json: bool) -> None:
    """Prints a method's card, parameters and YAML."""
    from assay.tasks.scaffold import show_method

    found = show_method(id)
    if as_json:
        print(json.dumps(found, indent=1, default=str))
        return
    console = Console()
    card = found["card"]
    console.print(f"[bold]{id}[/]  {escape(card['title'])}", highlight=False)
    console.print(f"\n{escape(found['about'])}\n", highlight=False)
    listed = ("problems", "needs", "roles", "drops", "gives", "refuses")
    for name in ("paper", "claim", "verdict", *listed, "library", "extra"):
        value = card.get(name)
        if value and value not in (["any"], ("any",)):
            shown = ", ".join(value) if isinstance(value, list | tuple) else value
            console.print(f"  {name}: {escape(shown)}", highlight=False)
    if card["anew"]:
        console.print("  it starts anew: it cannot train a given model on")
    table = Table("parameter", "type", "default", "bounds", "meaning", box=None)
    for row in found["parameters"]:
        table.add_row(*(escape(str(row[k])) for k in ("name", "type", "default", "bounds", "description")))
    if found["parameters"]:
        console.print()
        console.print(table)
    console.print()
    console.print(found["yaml"], highlight=False, markup=False, soft_wrap=True)


def methods_new(slot: str, name: str, root: Path) -> None:
    """Writes the files of a new method and says what to do next."""
    from assay.tasks.scaffold import new_method

    console = Console()
    for path in new_method(slot, name, root):
        console.print(f"  wrote {path}", highlight=False)
    console.print(f"fill them in; then: assay methods check {slot}/{name}", highlight=False)


def methods_check(target: str, as_json: bool) -> int:
    """Runs the conformance suite and prints one line a check; 1 where one fails. Raises UnknownMethod."""
    from assay.plugins.testing import check

    outcomes = check(target)
    if [outcome.check for outcome in outcomes] == ["found"]:
        raise registry.UnknownMethod(outcomes[0].message)
    if as_json:
        print(json.dumps([vars(o) for o in outcomes], indent=1, default=str))
    else:
        console = Console()
        for outcome in outcomes:
            mark = "[yellow]skip[/]" if outcome.skipped else "[green]ok[/]  " if outcome.ok else "[red]FAIL[/]"
            note = f"  [dim]{escape(outcome.message)}[/]" if outcome.message else ""
            console.print(f"{mark} {outcome.method} {outcome.check}{note}", highlight=False)
    return 0 if all(outcome.ok for outcome in outcomes) else 1
