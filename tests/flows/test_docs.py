"""What is written for people: made pages up to date, every command said, links that lead somewhere, and examples
that work."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from torch import nn

from assay.flows.cli import app
from assay.plugins import registry
from assay.plugins.contract import Batch, Context, DataSpec
from assay.tasks import docs
from assay.tasks.scaffold import base_of

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "methods"
WRITTEN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)) for text in found]
    return {text.strip().lower().replace(" ", "-") for text in plain}


def commands(group: Any, before: str = "assay") -> Iterator[str]:
    """Every command, with its groups before it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}"


# the made pages


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return docs.pages()


def test_the_method_pages_are_up_to_date(made: dict[str, str]) -> None:
    assert docs.out_of_date(PAGES, made) == [], "run `make docs`"


def test_the_examples_of_slots_are_the_methods() -> None:
    page = (ROOT / "docs" / "choosing-a-slot.md").read_text(encoding="utf-8")
    assert docs.filled(page) == page, "run `make docs`"
    shown = {registry.load(id).slot for _, id in docs.EXAMPLE.findall(page)}
    assert shown == {base_of(id).slot for id in registry.index().entries}
    assert "class SGD(Optimizer):" in page


def test_every_method_has_its_place(made: dict[str, str]) -> None:
    for id, entry in registry.index().entries.items():
        if entry.dist == docs.OWN:
            slot, _, name = id.rpartition("/")
            assert f"\n## {name}\n" in made[f"{slot}.md"]
            assert f"({slot}.md#{name})" in made[docs.INDEX]


def test_check_says_what_is_out_of_date_and_writing_mends_it(
    made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "pages", lambda: made)
    docs.write(tmp_path, made)
    assert docs.main([str(tmp_path), "--check"]) == 0
    (tmp_path / "train" / "optimizer.md").write_text("old", encoding="utf-8")
    (tmp_path / "train" / "gone.md").write_text("of a slot that is no more", encoding="utf-8")
    (tmp_path / "problems.md").unlink()
    assert docs.main([str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in ("train/optimizer.md", "train/gone.md", "problems.md"))
    assert docs.main([str(tmp_path)]) == 0
    assert docs.main([str(tmp_path), "--check"]) == 0
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.md")} == set(made)


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert docs.row("a|b", "c\nd") == "| a\\|b | c d |"


def test_a_claim_with_a_verdict_has_its_test(made: dict[str, str]) -> None:
    for page in made.values():
        for test in re.findall(r"\(\.\./(?:\.\./)*(tests/claims/[^)]+)\)", page):
            assert (ROOT / test).is_file(), test


# what was written by hand


def test_every_command_is_told() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in WRITTEN)
    missing = [name for name in commands(typer.main.get_command(app)) if not told(name, text)]
    assert missing == []


def told(command: str, text: str) -> bool:
    """Whether a command is named in full, or in a list like `assay data add`, `list`."""
    *group, last = command.split()
    listed = rf"`{' '.join(group)} \w+`(?:, `\w+`)*, `{last}`"
    return re.search(rf"{command}\b", text) is not None or re.search(listed, text) is not None


@pytest.mark.parametrize("path", [*WRITTEN, *sorted(PAGES.rglob("*.md"))], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_and_no_machine_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for match in LINK.finditer(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        target = match[1] or match[2]
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target
    assert not re.search(r"(?<!\w)/(?:tmp|work|root|home|opt|mnt)/", text)


def test_pictures_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 400_000, picture.name


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.name)
def test_examples_parse(path: Path) -> None:
    for text in blocks(path, "python"):
        compile(text, str(path), "exec")
    for text in blocks(path, "yaml"):
        assert isinstance(yaml.safe_load(text), dict | list)


# the method and the model that a new user is shown


def written(path: Path, first: str, tmp_path: Path) -> dict[str, Any]:
    """The names that a page's example defines; `first` begins its first line."""
    (text,) = [text for text in blocks(path, "python") if text.startswith(first)]
    file = tmp_path / "example.py"
    file.write_text(text, encoding="utf-8")
    return {**runpy.run_path(str(file)), "lines": [line for line in text.splitlines() if line.strip()]}


def test_the_method_of_the_page_is_short_and_right(tmp_path: Path) -> None:
    found = written(ROOT / "docs" / "adding-a-method.md", '"""VarGrad', tmp_path)
    assert len(found["lines"]) < 30
    assert f"in {len(found['lines'])} lines" in (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    method = found["VarGrad"](samples=4)
    ctx = Context(rng=torch.Generator(), spec=DataSpec(shape=(1, 2, 2), classes=("a",)), seed=1)
    batch = Batch({"index": torch.arange(3), "x": torch.rand(3, 1, 2, 2)})
    square = SquaredSum()
    values = method.attribute(square, batch, lambda prediction, _: prediction[:, 0], ctx).values
    # The gradient of (sum x)² is 2 sum x for each pixel: its variance is that of twice the noise's sum.
    drawn = 2 * 0.1 * ctx.normal(batch.index, (4, 1, 2, 2)).flatten(2).sum(2)
    assert torch.allclose(values, drawn.var(1).view(3, 1, 1).expand(3, 2, 2), rtol=1e-3)


class SquaredSum(nn.Module):
    """The squared sum of the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).sum(1, keepdim=True).square()


def test_the_model_of_the_readme_is_a_model(tmp_path: Path) -> None:
    found = written(ROOT / "README.md", '"""One hidden layer', tmp_path)
    spec = DataSpec(shape=(1, 4, 4), classes=("a", "b", "c"))
    model = found["Wide"](width=8).build(spec, Context(rng=torch.Generator(), spec=spec))
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    assert {name for name, _ in model.named_children()} == {"layers", "head"}
