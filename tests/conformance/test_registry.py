"""How methods are found, and what is said of those that cannot be used."""

from __future__ import annotations

import subprocess
import sys

import pytest

from assay.plugins import registry, testing

GOOD = '''
    """A fill of one value."""

    from __future__ import annotations

    import torch

    from assay.plugins.contract import Attribution, Batch, Card, Context, Field, Saliency, Scorer


    class Fill(Saliency):
        """The same value everywhere."""

        card = Card(title="A fill", modality=("image",))
        value: float = Field(1.0, ge=0, le=2, description="the value")

        def attribute(self, model: torch.nn.Module, batch: Batch, score: Scorer, ctx: Context) -> Attribution:
            return Attribution(torch.full((batch.size, *batch.x.shape[2:]), self.value))
'''
SALIENCY = {"attribute.saliency": "fake_maps.saliency"}
PACKAGE = {"fake_maps/__init__.py": "", "fake_maps/saliency/__init__.py": "", "fake_maps/saliency/fill.py": GOOD}


def others(package: str, files: dict[str, str]) -> dict[str, str]:
    """A package with a good method and these files beside it."""
    return {f"{package}/__init__.py": "", f"{package}/saliency/__init__.py": "", **files}


def test_a_third_party_method_is_listed_loaded_and_made(install) -> None:
    install("fake-maps", SALIENCY, PACKAGE)
    entry = registry.find("attribute/saliency/fill")
    assert (entry.dist, entry.version, entry.title, entry.broken) == ("fake-maps", "1.2", "A fill", "")
    assert "fake_maps" not in sys.modules
    method = registry.make("attribute/saliency", {"name": "fill", "value": 0.5})
    assert method.value == 0.5
    assert registry.method_id(method) == "attribute/saliency/fill"


def test_a_third_party_package_passes_the_suite(install) -> None:
    install("fake-maps", SALIENCY, PACKAGE)
    outcomes = testing.check("fake-maps")
    assert {o.method for o in outcomes} == {"attribute/saliency/fill"}
    assert all(o.ok and not o.skipped for o in outcomes), [o for o in outcomes if not o.ok]
    assert testing.check("fake_maps") == outcomes
    assert testing.check("fill") == outcomes


def test_a_name_claimed_twice_names_both_distributions(install) -> None:
    install("fake-maps", SALIENCY, PACKAGE)
    install(
        "fake-more",
        {"attribute.saliency": "fake_more.saliency"},
        others("fake_more", {"fake_more/saliency/fill.py": GOOD, "fake_more/saliency/pour.py": GOOD}),
    )
    with pytest.raises(registry.UnknownMethod, match="claimed by two") as caught:
        registry.load("attribute/saliency/fill")
    assert "fake-maps" in str(caught.value)
    assert "fake-more" in str(caught.value)
    assert registry.make("attribute/saliency", "pour").value == 1.0
    found = {o.method: o for o in testing.check("fake-more") if not o.ok}
    assert set(found) == {"attribute/saliency/fill"}
    assert "fake-maps" in found["attribute/saliency/fill"].message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_thing\n", "No module named 'no_such_thing'"),
        ("from assay.plugins.contract import NoSuchName\n", "NoSuchName"),
        ("raise RuntimeError('wrong on purpose')\n", "RuntimeError: wrong on purpose"),
        ("def f(:\n", "SyntaxError"),
        ("x = 1\n", "exactly one method"),
        (GOOD.replace("Fill", "One") + GOOD.replace("Fill", "Two").split("Scorer\n", 1)[1], "exactly one method"),
        (GOOD.replace("(Saliency)", "(Agreement)").replace("Saliency,", "Agreement,"), "attribute/agreement"),
    ],
)  # fmt: skip
def test_a_broken_file_is_listed_and_fails_when_used_only(install, text: str, said: str) -> None:
    install("fake-maps", SALIENCY, {**PACKAGE, "fake_maps/saliency/broken.py": text})
    assert "attribute/saliency/broken" in registry.index().entries
    with pytest.raises(registry.UnknownMethod) as caught:
        registry.load("attribute/saliency/broken")
    assert said in str(caught.value)
    assert registry.make("attribute/saliency", "fill").value == 1.0
    failed = [o for o in testing.check("fake-maps") if not o.ok]
    assert [o.method for o in failed] == ["attribute/saliency/broken"]
    assert said in failed[0].message


def test_a_file_that_does_not_parse_says_so_without_import(install) -> None:
    install("fake-maps", SALIENCY, {**PACKAGE, "fake_maps/saliency/broken.py": "def f(:\n"})
    assert "does not parse" in registry.find("attribute/saliency/broken").broken


def test_a_missing_optional_library_gives_the_install_command(install) -> None:
    text = GOOD.replace("import torch\n", "import torch\n    import no_such_library.part\n", 1)
    text = text.replace('title="A fill"', 'title="A fill", extra="wavelets"')
    install("fake-maps", SALIENCY, {**PACKAGE, "fake_maps/saliency/wave.py": text})
    assert registry.find("attribute/saliency/wave").title == "A fill"
    with pytest.raises(registry.UnknownMethod) as caught:
        registry.load("attribute/saliency/wave")
    assert "pip install 'fake-maps[wavelets]'" in str(caught.value)
    assert "no_such_library" in str(caught.value)
    (outcome,) = [o for o in testing.check("fake-maps") if o.method.endswith("wave")]
    assert outcome.skipped
    assert "pip install 'fake-maps[wavelets]'" in outcome.message


def test_an_unknown_name_gets_close_matches() -> None:
    with pytest.raises(registry.UnknownMethod, match=r"did you mean.*sgd"):
        registry.make("train/optimizer", "sgdd", "train.optimizer")
    with pytest.raises(registry.UnknownMethod, match="methods list"):
        registry.find("no/such/slot")
    (outcome,) = testing.check("train/optimizer/sgdd")
    assert not outcome.ok
    assert "train/optimizer/sgd" in outcome.message


def test_an_unknown_parameter_is_named_with_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"train\.optimizer\.momentun: unknown parameter; did you mean 'momentum'\?"):
        registry.make("train/optimizer", {"name": "sgd", "momentun": 0.5}, "train.optimizer")


@pytest.mark.parametrize("value", [-0.1, 0, float("nan"), float("inf"), "much", None, [0.1]])
def test_a_value_out_of_bounds_is_refused_with_key_and_value(value: object) -> None:
    with pytest.raises(ValueError, match=r"train\.optimizer\.lr: ") as caught:
        registry.make("train/optimizer", {"name": "sgd", "lr": value}, "train.optimizer")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [3, None, [], {}, {"lr": 0.1}, {"name": 4}])
def test_an_entry_that_is_no_method_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"train\.optimizer: "):
        registry.make("train/optimizer", value, "train.optimizer")  # type: ignore[arg-type]


def test_a_broken_package_is_named_and_the_others_are_listed(install) -> None:
    install("fake-gone", {"attribute.saliency": "fake_gone.saliency"}, {})
    install("fake-half", {"attribute.saliency": "fake_half.saliency"}, {"fake_half/__init__.py": ""})
    install("fake-maps", SALIENCY, PACKAGE)
    index = registry.index()
    assert "attribute/saliency/fill" in index.entries
    assert "no package 'fake_gone'" in index.broken_packages["attribute.saliency of fake-gone"]
    assert "no folder 'saliency'" in index.broken_packages["attribute.saliency of fake-half"]
    (outcome,) = testing.check("fake-half")
    assert not outcome.ok
    assert "no folder 'saliency'" in outcome.message


def test_listing_imports_no_method_and_no_torch(install) -> None:
    site = install("fake-maps", SALIENCY, {**PACKAGE, "fake_maps/saliency/loud.py": "raise SystemExit('imported')\n"})
    code = (
        "import sys\n"
        "from assay.plugins import registry\n"
        "found = registry.index().entries\n"
        "titles = [(e.title, e.broken, e.dist) for e in found.values()]\n"
        "assert 'attribute/saliency/loud' in found and 'train/optimizer/sgd' in found\n"
        "modules = [m for m in sys.modules if m in ('torch', 'fake_maps', 'assay.plugins.contract') or m in"
        " {e.module for e in found.values()}]\n"
        "assert not modules, modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(site), "PATH": ""})
