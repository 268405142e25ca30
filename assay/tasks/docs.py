"""The pages of `docs/methods`, made from the methods' cards and parameters.

`python -m assay.tasks.docs docs/methods` writes them; with `--check` it writes nothing and fails where they
are out of date. The same methods give the same bytes. Written pages that are named too have their examples of
methods (`<!-- source: ID -->` before a block) filled from the methods' files.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.plugins import registry
from assay.tasks.describe import show_method
from assay.tasks.scaffold import base_of, functions

OWN = "assay"
INDEX = "README.md"
LISTS = ("problems", "modality", "needs", "roles", "drops", "gives", "refuses")
SITES = {"arxiv:": "https://arxiv.org/abs/", "doi:": "https://doi.org/"}
EXAMPLE = re.compile(r"(<!-- source: (\S+) -->\n)```python\n.*?^```", re.MULTILINE | re.DOTALL)
MADE = "<!-- Made by `make docs` from the methods' cards. Edit the methods, not this page. -->"


def pages() -> dict[str, str]:
    """Every page's text by its path inside the folder: one a slot with methods of Assay, and the index."""
    methods = [show_method(id) for id, entry in registry.index().entries.items() if entry.dist == OWN]
    slots: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        slots.setdefault(slot_of(method), []).append(method)
    return {INDEX: index_page(slots), **{f"{slot}.md": slot_page(slot, found) for slot, found in slots.items()}}


def slot_of(method: Mapping[str, Any]) -> str:
    """The folder of a method: `attribute/saliency` of `attribute/saliency/gradient`."""
    return str(method["id"]).rpartition("/")[0]


def name_of(method: Mapping[str, Any]) -> str:
    """A method's own name."""
    return str(method["id"]).rpartition("/")[2]


# the index


def index_page(slots: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """All methods by slot, and how many claims were reproduced."""
    every = [method for found in slots.values() for method in found]
    counts = Counter(method["card"]["verdict"] for method in every)
    lines = [
        MADE,
        "",
        "# Methods",
        "",
        f"{len(every)} methods in {len(slots)} slots. What their claim tests found: "
        + ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("reproduced", "not reproduced", "no claim"))
        + ". `assay methods list` shows those of other packages too.",
    ]
    for slot, found in slots.items():
        lines += ["", f"## [{slot}]({slot}.md)", "", "| method | title | claim |", "|---|---|---|"]
        lines += [
            row(f"[{name_of(m)}]({slot}.md#{name_of(m)})", m["card"]["title"], m["card"]["verdict"]) for m in found
        ]
    return "\n".join(lines) + "\n"


# a slot's page


def slot_page(slot: str, methods: Sequence[Mapping[str, Any]]) -> str:
    """What a method of the slot writes, and each method with its card, parameters and YAML."""
    base = base_of(slot)
    up = "../" * slot.count("/")
    lines = [
        MADE,
        "",
        f"# {slot}",
        "",
        inspect.cleandoc(base.__doc__ or ""),
        "",
        f"[All methods]({up}{INDEX}). A method of this slot writes:",
        "",
        "```python",
        *(f"{function.signature} ..." for function in functions(base)),
        "```",
    ]
    for method in methods:
        lines += ["", *method_lines(method, up)]
    return "\n".join(lines) + "\n"


def method_lines(method: Mapping[str, Any], up: str) -> Iterator[str]:
    """One method."""
    card = method["card"]
    yield from (f"## {name_of(method)}", "", " ".join([f"*{card['title']}*.", *citations(card)]), "", method["about"])
    facts = list(fact_lines(method, card, up))
    if facts:
        yield from ("", *facts)
    if method["parameters"]:
        yield from ("", "| parameter | type | default | bounds | meaning |", "|---|---|---|---|---|")
        for found in method["parameters"]:
            default = "required" if found["required"] else code(shown(found["default"]))
            yield row(code(found["name"]), found["type"], default, code(found["bounds"]), found["description"])
    if ":\n" in method["yaml"]:  # it has a place in params.yaml
        yield from ("", "```yaml", method["yaml"].rstrip("\n"), "```")


def citations(card: Mapping[str, Any]) -> Iterator[str]:
    """The paper, and those with the same algorithm, as links where they have an address."""
    papers = [paper for paper in (card["paper"], *card["also"]) if paper]
    if papers:
        yield "; ".join(cited(paper) for paper in papers) + "."


def cited(paper: str) -> str:
    """One citation."""
    for prefix, site in SITES.items():
        if paper.startswith(prefix):
            return f"[{paper}]({site}{paper.removeprefix(prefix)})"
    return paper.rstrip(".")


def fact_lines(method: Mapping[str, Any], card: Mapping[str, Any], up: str) -> Iterator[str]:
    """The claim with its verdict and test, and the capabilities that are not the default."""
    if card["claim"]:
        test = f"tests/claims/{slot_of(method)}/test_{name_of(method)}.py"
        yield f"- claim: {card['claim']} **{card['verdict'].capitalize()}** ([test]({up}../../{test}))."
    for name in LISTS:
        if card[name] and card[name] != ["any"]:
            yield f"- {name}: {', '.join(card[name])}"
    if card["anew"]:
        yield "- it starts anew: it cannot train a given model on"
    if card["coupled"]:
        yield "- an example's result depends on the rest of its batch"
    if card["serves"]:
        yield "- new data pass it too: its record is part of the model artifact"
    if card["library"]:
        yield f"- library: {card['library']}"
    if card["extra"]:
        yield f"- install: `pip install '{method['distribution']}[{card['extra']}]'`"


def row(*cells: str) -> str:
    """One row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def code(text: str) -> str:
    """A text as code; nothing where it is empty."""
    return f"`{text}`" if text else ""


def shown(value: Any) -> str:
    """A default as YAML would have it."""
    return json.dumps(value) if not isinstance(value, str) else value or '""'


# examples in written pages


def filled(text: str) -> str:
    """A written page with the code of each method that it names: its file without docstring and imports."""
    return EXAMPLE.sub(lambda found: f"{found[1]}```python\n{source_of(found[2])}\n```", text)


def source_of(id: str) -> str:
    """A method's file from its first definition on."""
    text = Path(inspect.getfile(registry.load(id))).read_text(encoding="utf-8")
    first = next(node for node in ast.parse(text).body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr))
    begin = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", ()))])
    return "\n".join(text.splitlines()[begin - 1 :])


# files


def out_of_date(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """Paths of the pages that are missing, differ, or should not be there."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    wrong = [name for name, text in wanted.items() if name in there and read(folder / name) != text]
    return sorted([*wrong, *(there ^ set(wanted))])


def read(path: Path) -> str:
    """A page's text."""
    return path.read_text(encoding="utf-8")


def write(folder: Path, wanted: Mapping[str, str]) -> None:
    """Writes the pages, and removes those of slots that are gone."""
    for name in out_of_date(folder, wanted):
        path = folder / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the pages; 1 where a check finds some out of date."""
    parser = argparse.ArgumentParser(prog="python -m assay.tasks.docs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pages are, as docs/methods")
    parser.add_argument("written", type=Path, nargs="*", help="written pages with examples, as docs/choosing-a-slot.md")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where pages are out of date")
    given = parser.parse_args(arguments)
    wanted = pages()
    texts = {path: filled(read(path)) for path in given.written}
    wrong = [given.folder / name for name in out_of_date(given.folder, wanted)]
    wrong += [path for path, text in texts.items() if text != read(path)]
    if given.check:
        for path in wrong:
            print(f"out of date: {path}; `make docs` writes it again", file=sys.stderr)
        return 1 if wrong else 0
    write(given.folder, wanted)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in {given.folder}, {len(wrong)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
