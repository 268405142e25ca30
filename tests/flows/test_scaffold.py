"""`methods new` writes files that import and tests that fail until they are filled in; `methods show`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from assay.plugins import contract, registry
from assay.plugins.values import BadInput
from assay.tasks import scaffold
from assay.tasks.params import Params


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A project with a package for every slot, none of them there yet."""
    lines = [f'"{slot.replace("/", ".")}" = "mine.{slot.replace("/", "_")}"' for slot in scaffold.slots()]
    points = f'[project.entry-points."{registry.GROUP}"]\n' + "\n".join(lines)
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "mine"\nversion = "0"\n{points}\n')
    meta = tmp_path / "mine-0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0\n")
    text = "\n".join(line.replace('"', "") for line in lines)
    (meta / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{text}\n")
    return tmp_path


def run(package: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python command that sees the project's package."""
    path = os.pathsep.join([str(package), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], cwd=package, env=environment, capture_output=True, text=True)


def test_new_methods_of_every_slot_import_and_their_tests_fail(package: Path) -> None:
    slots = scaffold.slots()
    assert len(slots) > 20
    written = [path for slot in slots for path in scaffold.new_method(slot, "brand_new", package)]
    methods = [p for p in written if p.name == "brand_new.py"]
    tests = [p for p in written if p.name == "test_brand_new.py"]
    assert (len(methods), len(tests)) == (len(slots), 2 * len(slots))
    for path in written:
        assert max(map(len, path.read_text().splitlines()), default=0) <= 120, path
    result = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests")
    assert f"{2 * len(slots)} failed" in result.stdout, result.stdout[-3000:]
    assert "passed" not in result.stdout
    assert "error" not in result.stdout.splitlines()[-1]
    code = (
        "from assay.plugins import registry, testing\n"
        "mine = [e.id for e in registry.index().entries.values() if e.dist == 'mine']\n"
        "for id in mine:\n"
        "    registry.load(id)()\n"
        "    failed = [o for o in testing.run(id) if not o.ok and o.check == 'card']\n"
        "    assert 'FILL IN' in failed[0].message, (id, failed)\n"
        "print(len(mine))\n"
    )
    result = run(package, "-c", code)
    assert result.stdout.strip() == str(len(slots)), result.stderr[-3000:]


@pytest.mark.parametrize("cls", scaffold.bases().values(), ids=lambda cls: cls.__name__)
def test_what_is_to_be_written_comes_from_the_contract(cls: type[contract.Method]) -> None:
    for function in scaffold.functions(cls):
        name = re.match(r"def (\w+)", function.signature)[1]  # type: ignore[index]
        owner = next(c for c in cls.__mro__ if name in vars(c))
        assert owner is not contract.Method
        assert issubclass(owner, contract.Method)
        assert function.doc
    assert scaffold.functions(cls), "a slot whose methods have nothing to write"


def test_a_saliency_is_as_the_contract_says(package: Path) -> None:
    method, *_ = scaffold.new_method("attribute.saliency", "guided_thing", package)
    text = method.read_text()
    assert method == package / "mine" / "attribute_saliency" / "guided_thing.py"
    assert "class GuidedThing(Saliency):" in text
    assert "from torch import Tensor" not in text
    assert "from torch import nn\n" in text
    assert "def attribute(self, model: nn.Module, batch: Batch, score: Scorer, ctx: Context) -> Attribution:" in text


def test_a_src_layout_is_found_and_packages_are_made(package: Path) -> None:
    (package / "src" / "mine").mkdir(parents=True)
    written = scaffold.new_method("compress/prune", "coin", package)
    inside = {str(p.relative_to(package)) for p in written}
    assert inside == {
        "src/mine/__init__.py",
        "src/mine/compress_prune/__init__.py",
        "src/mine/compress_prune/coin.py",
        "tests/reference/compress/prune/test_coin.py",
        "tests/claims/compress/prune/test_coin.py",
    }


def test_assays_own_tree_is_a_project_like_any_other() -> None:
    root = Path(__file__).parents[2]
    package = scaffold.declared_package("attribute/saliency", root)
    assert scaffold.package_path(package, root) == root / "assay" / "plugins" / "attribute" / "saliency"


@pytest.mark.parametrize("name", ["Upper", "a-b", "../up", "a/b", "", "1st", "_hidden", "class", "a b", "x" * 65, "é"])
def test_a_bad_name_is_refused(package: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is no name for a method"):
        scaffold.new_method("attribute/saliency", name, package)
    assert not (package / "mine").exists()


def test_an_unknown_slot_gets_close_matches(package: Path) -> None:
    with pytest.raises(BadInput, match="did you mean attribute/saliency"):
        scaffold.new_method("attribute/salienzy", "good", package)
    with pytest.raises(BadInput, match=r"did you mean .*attribute/saliency"):
        scaffold.new_method("saliency", "good", package)
    with pytest.raises(BadInput, match=r"there is no slot '\.\./compress'"):
        scaffold.base_of("../compress")
    with pytest.raises(BadInput, match=r"'evaluate/acuracy' is new.*did you mean evaluate/accuracy"):
        scaffold.new_method("evaluate/acuracy", "good", package)


def test_a_file_that_is_there_is_not_overwritten(package: Path) -> None:
    written = scaffold.new_method("attribute/saliency", "good", package)
    for path in written:
        if path.name.startswith("test_"):
            path.write_text("mine")
    written[-1].unlink()
    with pytest.raises(BadInput, match="is there already"):
        scaffold.new_method("attribute/saliency", "good", package)
    (package / "mine" / "attribute_saliency" / "good.py").unlink()
    with pytest.raises(BadInput, match="is there already"):
        scaffold.new_method("attribute/saliency", "good", package)


def test_a_project_without_the_entry_point_is_told_the_lines_to_add(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no .*pyproject\.toml"):
        scaffold.new_method("attribute/saliency", "good", tmp_path)
    file = tmp_path / "pyproject.toml"
    file.write_text("[project\n")
    with pytest.raises(BadInput, match="cannot be read"):
        scaffold.new_method("attribute/saliency", "good", tmp_path)
    file.write_text('[project]\nname = "my-maps"\n')
    with pytest.raises(BadInput) as caught:
        scaffold.new_method("attribute/saliency", "good", tmp_path)
    assert '[project.entry-points."assay.plugins"]\n"attribute.saliency" = "my_maps.saliency"' in str(caught.value)
    file.write_text('[project.entry-points."assay.plugins"]\n"attribute.saliency" = "../../etc"\n')
    with pytest.raises(BadInput, match="is no package"):
        scaffold.new_method("attribute/saliency", "good", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["pyproject.toml"]


# show


@pytest.mark.parametrize("id", registry.index().entries)
def test_show_gives_every_parameter_and_yaml_that_makes_the_method(id: str) -> None:
    shown = scaffold.show_method(id)
    cls = registry.load(id)
    assert [row["name"] for row in shown["parameters"]] == list(cls.model_fields)
    assert shown["card"]["title"] == cls.card.title
    assert all(row["description"] and row["type"] != "any" for row in shown["parameters"])
    pasted = yaml.safe_load(shown["yaml"])
    entry = pasted
    while "name" not in entry:
        entry = entry[0] if isinstance(entry, list) else next(iter(entry.values()))
    position = id.removesuffix("/" + entry["name"])
    if not any(field.is_required() for field in cls.model_fields.values()):
        assert registry.make(position, entry) == registry.make(position, entry["name"])
    if "name" not in pasted:
        assert next(iter(pasted)) in Params.model_fields


def test_show_pastes_a_method_where_it_belongs() -> None:
    assert scaffold.show_method("train/optimizer/sgd")["yaml"].startswith("train:\n  optimizer: {name: sgd, lr: 0.1,")
    assert scaffold.show_method("train/around/sam")["yaml"].startswith("train:\n  around:\n    - {name: sam, ")
    link = scaffold.show_method("compress/prune/magnitude")["yaml"]
    assert link.startswith("compress:\n  my-variant:\n    - {name: prune/magnitude, ")
    (row,) = [r for r in scaffold.show_method("train/optimizer/sgd")["parameters"] if r["name"] == "momentum"]
    assert (row["type"], row["default"], row["bounds"], row["required"]) == ("number", 0.9, ">= 0, < 1", False)


def test_show_of_an_unknown_method_gives_close_matches() -> None:
    with pytest.raises(registry.UnknownMethod, match="did you mean sgd"):
        scaffold.show_method("train/optimizer/sgdd")
