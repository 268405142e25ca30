"""The report of a made-up run: whole artifacts in a real store, a real plan and summary, no training."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.plugins.contract import Attribution, Data, DataSpec, Number, Result, Split
from assay.tasks import artifacts, params
from assay.tasks.cells import Ref
from assay.tasks.plan import DENSE, RANDOM, Plan, make_plan
from assay.tasks.report import arrays, maps, plots, svg, view, words, write_report
from assay.tasks.results import summarise
from assay.tasks.store import Store
from assay.tasks.summary import Row, Summary

CLASSES = ("zero", "one", "<b>two</b>")
FACTS = {
    "command": "assay run --set 'a.b=<script>alert(1)</script>'",
    "created": "2025-03-01T12:00:00Z",
    "versions": {"assay": "0.1.0", "torch": "2.13.0"},
    "data": [
        {"name": "main", "version": "abc", "sizes": {"train": 40, "test": 30}, "shape": [1, 12, 6], "classes": CLASSES}
    ],
    "git": "0123abc",
    "seconds": 12.5,
}
TREE: dict[str, Any] = {
    "prepare": ["source/digits"],
    "train": {"model": "mlp"},
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.8}],
        "slim-int8": [{"name": "prune/magnitude", "sparsity": 0.5}, "quantize/int8_static"],
    },
    "attribute": {
        "saliency": ["gradient", "grad_cam"],
        "agreement": ["rank"],
        "audit": ["mask_share", "deletion"],
        "images": 20,
    },
    "evaluate": ["accuracy/top1", "calibration/ece", "cost/size", "cost/latency"],
    "gates": ["accuracy/top1.drop <= 0.2", "gradient:rank >= ceiling - 0.1"],
}
QUALITY = {DENSE: 1.0, "reseeded-1": 0.7, "pruned": 0.68, "slim-int8": 0.3, RANDOM: 0.02}


class World:
    """A run whose every answer is made up."""

    def __init__(self, root: Path, tree: Mapping[str, Any], shape: tuple[int, ...] = (1, 12, 6), classes: bool = True):
        self.rng = np.random.default_rng(0)
        self.plan: Plan = make_plan(params.validate(tree), root, "cpu")
        self.store = Store(root / "store")
        self.shape = shape
        self.data = self._data(shape, CLASSES if classes else ())
        artifacts.save_data(self.folder(self.plan.data["main"]), self.data)
        for (model, label), ref in self.plan.saliency.items():
            self._saliency(ref, model, label)
        for (model, saliency, label), ref in self.plan.agreement.items():
            each = np.clip(self.rng.normal(QUALITY.get(model, 0.0), 0.05, 20), -1, 1)
            self.save(ref, {label: Number(float(each.mean()), "", 1, f"{label}: how alike.", each)})
            if model == "slim-int8" and saliency == "grad_cam":
                artifacts.save_not_auditable(self.folder(ref), "no <convolution> to look at")
        for (model, _, label), ref in self.plan.audit.items():
            each = np.clip(self.rng.normal(0.2 + 0.6 * QUALITY[model], 0.1, 20), 0, 1)
            curve = {"fraction": np.linspace(0, 1, 5), "curve": np.linspace(QUALITY[model], 0, 5)}
            self.save(ref, {"share": Number(float(each.mean()), "share", 1, f"{label} of a map.", each)}, curve)
        for (model, label), ref in self.plan.evaluation.items():
            self.save(ref, *self._answer(label, QUALITY[model]))

    def folder(self, ref: Ref) -> Path:
        folder = self.store.folder(ref.slot, ref.key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, ref: Ref, numbers: Mapping[str, Number], found: Mapping[str, np.ndarray] | None = None) -> None:
        artifacts.save_result(self.folder(ref), Result(numbers, found or {}))

    def _data(self, shape: tuple[int, ...], classes: Sequence[str]) -> Data:
        def split(n: int) -> Split:
            x = self.rng.random((n, *shape)).astype(np.float32)
            own: dict[str, np.ndarray] = {"x": x, "y": np.arange(n) % max(len(classes), 3)}
            if len(shape) == 3:
                own["mask"] = np.zeros((n, *shape[1:]), dtype=np.uint8)
                own["mask"][:, : shape[1] // 2] = 1
            return Split(own)

        spec = DataSpec(shape=shape, classes=tuple(classes), outputs=3)
        return Data(spec, {"train": split(40), "test": split(30)})

    def _saliency(self, ref: Ref, model: str, label: str) -> None:
        size = (20, *self.shape[1:]) if len(self.shape) == 3 else (20, *self.shape)
        values = self.rng.random(size) - (0.5 if label == "grad_cam" else 0.0)
        artifacts.save_attribution(self.folder(ref), Attribution(torch.tensor(values)))
        kept = (np.arange(20) != 7) | (model != "slim-int8")
        facts = {"kept": kept.tolist(), "constant": False, "error": 0.1, "chance": 0.66, "chance_error": 0.1}
        artifacts.write_json(self.folder(ref) / "kept.json", facts)

    def _answer(self, label: str, quality: float) -> tuple[dict[str, Number], dict[str, np.ndarray]]:
        if label == "accuracy/top1":
            each = (np.arange(30) < 28 * quality**0.2).astype(float)
            found = {"per_class": np.array([0.9, 0.8, quality]), "confusion": np.diag([9, 8, int(9 * quality)])}
            found["confusion"][2, 0] = 10 - int(9 * quality)
            return {"top1": Number(float(each.mean()), "", 1, "Share of examples answered right.", each)}, found
        if label == "calibration/ece":
            bins = {"confidence": np.array([0.3, np.nan, 0.9]), "accuracy": np.array([0.2, np.nan, 0.8])}
            bins |= {"count": np.array([10, 0, 20]), "edges": np.linspace(0, 1, 4)}
            return {"ece": Number(0.1, "", -1, "Gap of confidence and accuracy.")}, bins
        if label == "cost/size":
            return {"bytes": Number(200_000 * quality, "B", -1, "Bytes of the file.")}, {}
        return {"b1": Number(2.5 * quality, "ms", -1, "Median time.")}, {"samples_b1": self.rng.random(300)}

    def summary(self) -> Summary:
        return summarise(self.plan, self.store)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first images of the test split, without a model to ask for its predictions."""

    def first(dense: Path, data: Path, count: int, seed: int, device: str, inference: Any) -> Any:
        batch = artifacts.load_data(data).test.batch(slice(count))
        return batch.replace(target=batch.y)

    monkeypatch.setattr(maps, "cached_images", first)


@pytest.fixture
def world(tmp_path: Path, images: None) -> World:
    return World(tmp_path, TREE)


def page_of(world: World, summary: Summary | None = None, facts: Mapping[str, Any] = FACTS) -> str:
    path = write_report(world.plan, world.store, summary or world.summary(), world.store.root / "out", facts)
    assert path.name == "report.html"
    return path.read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Follows the nesting of a page and collects what it refers to."""

    EMPTY = frozenset({"meta", "img", "input", "br", "wbr"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.links += [v for k in ("src", "href") if (v := known.get(k))]
        self.ids += [v for v in [known.get("id")] if v]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> Balance:
    """Whatever the run: balanced, nothing from outside, inner links lead somewhere, no cell is empty, small."""
    found = Balance(page)
    assert not found.open
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in found.links)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert not re.search(r"url\(|@import|http-equiv=.refresh|src=.http|fetch\(", page)
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.S)
    assert all(re.sub(r"<[^>]*>", "", cell).strip() or "<img" in cell for cell in cells)
    assert not re.search(r"\bnan\b", page)
    assert len(page) < 2_000_000
    return found


def test_the_page_is_whole_and_says_the_verdict(world: World) -> None:
    summary = world.summary()
    page = page_of(world, summary)
    check(page)
    assert summary.variant_passed("pruned")
    assert not summary.variant_passed("slim-int8")
    assert "<h1>1 of 2 variants passes: pruned</h1>" in page
    for name in ("agreement", "audit", "maps", "classes", "reliability", "curves", "numbers", "origin", "glossary"):
        assert f'<section id="{name}">' in page
    for text in ("over images only (1 reseed)", "floor", "ceiling", "n = 20", "Measured on this machine", "0123abc"):
        assert text in page
    assert world.plan.models["pruned"].key in page
    assert "sparsity 0.8" in page


def test_everything_is_escaped(world: World) -> None:
    page = page_of(world)
    assert "<script>alert" not in page
    assert "<b>two</b>" not in page
    assert "no <convolution>" not in page
    assert "&lt;b&gt;two" in page


def test_not_auditable_stands_with_its_reason(world: World) -> None:
    page = page_of(world)
    assert "not auditable: no &lt;convolution&gt; to look at" in page


def test_the_same_run_gives_the_same_bytes(world: World) -> None:
    assert page_of(world) == page_of(world)


def test_every_number_is_in_the_csv(world: World) -> None:
    summary = world.summary()
    page_of(world, summary)
    with open(world.store.root / "out" / "report.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", *(field.name for field in fields(Row))]
    assert len(rows) == len(summary.rows)
    for written, row in zip(rows, summary.rows, strict=True):
        assert written["name"] == row.name
        value = float(written["value"] or "nan")
        assert value == row.value or (math.isnan(value) and math.isnan(row.value))


def test_the_model_card_names_models_numbers_and_limits(world: World) -> None:
    page_of(world)
    card = (world.store.root / "out" / "model_card.md").read_text(encoding="utf-8")
    assert "1 of 2 variants passes: pruned." in card
    assert "prune/magnitude" in card
    assert "## Limits" in card
    assert "not auditable: no \\<convolution\\> to look at" in card
    for block in re.findall(r"(?:^\|.*\n)+", card, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
        assert not re.search(r"\| +\|", block)


@pytest.mark.parametrize(
    "changes",
    [
        {"gates": []},
        {"compress": {}, "gates": []},
        {"attribute": {}, "gates": ["accuracy/top1.drop <= 0.2"]},
        {"attribute": {"saliency": ["gradient"], "images": 20}, "gates": []},
        {"evaluate": [], "gates": []},
        {"attribute": {}, "evaluate": [], "compress": {}, "gates": []},
    ],
    ids=["no gates", "no variants", "no saliency", "nothing compared", "no evaluators", "nothing"],
)
def test_a_run_that_asks_for_less(tmp_path: Path, images: None, changes: dict[str, Any]) -> None:
    page = page_of(World(tmp_path, {**TREE, **changes}))
    check(page)


def test_data_that_are_no_images_have_no_maps(tmp_path: Path, images: None) -> None:
    page = page_of(World(tmp_path, TREE, shape=(7,), classes=False))
    check(page)
    assert "the data are no images" in page


def test_nan_everywhere(world: World) -> None:
    summary = world.summary()
    numbers = [f.name for f in fields(Row) if f.type == "float"]
    for row in summary.rows:
        for name in numbers:
            setattr(row, name, float("nan"))
    page = page_of(world, summary, {})
    check(page)


# parts


def test_outline_is_the_edge_of_the_mask() -> None:
    mask = np.zeros((4, 5))
    mask[1:3, 2:5] = 1
    drawn = str(maps.outline(mask))
    for run in ("M2 1h3", "M2 3h3", "M2 1v2", "M5 1v2"):
        assert run in drawn
    assert drawn.count("h3") == drawn.count("v2") == 4  # once for the line, once for its halo
    assert maps.outline(np.zeros((4, 5))) == ""


def test_map_colours_put_zero_in_the_middle_and_saturate_at_the_99th_percentile() -> None:
    signed = maps.map_pixels(np.array([[-2.0, 0.0, 1.0, 2.0]]), True)
    assert signed.tolist() == [[0, 128, 191, 255]] or signed.tolist() == [[0, 128, 192, 255]]
    even = maps.map_pixels(np.array([[0.0, 1.0, 2.0]]), False)
    assert even[0, 0] == 0
    assert even[0, 2] == 255
    assert maps.map_pixels(np.zeros((2, 2)), False).tolist() == [[0, 0], [0, 0]]
    lightness = maps.palette(maps.SEQUENTIAL).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -1).all()


def test_pictures_show_a_flip_where_there_is_one() -> None:
    batch = artifacts.Split({"x": np.zeros((30, 1, 2, 2), dtype=np.float32)}).batch(slice(None))
    kept = np.ones(30, dtype=bool)
    kept[13] = False
    chosen = maps.choose(batch, [kept, None])
    assert 13 in chosen
    assert len(chosen) == len(set(chosen)) == maps.ROWS
    assert maps.choose(batch, []) == [0, 6, 12, 17, 23, 29]


@pytest.mark.parametrize(
    ("value", "unit", "share", "said"),
    [
        (1234567, "B", False, "1.23 MB"), (999, "B", False, "999 B"), (0.9712, "", True, "97.1 %"),
        (3.14159, "ms", False, "3.14 ms"), (131594, "", False, "131,594"),
        (0.51234, "correlation", False, "0.512"), (float("nan"), "ms", False, "–"),
        (0.0, "", False, "0.000"), (-0.00001, "", False, "−1.0e−05"),
    ],
)  # fmt: skip
def test_numbers_for_people(value: float, unit: str, share: bool, said: str) -> None:
    assert words.say(value, unit, share) == said


def test_changes_and_ratios_for_people() -> None:
    assert words.say_change(-0.0123, share=True) == "−1.2 pt"
    assert words.say_change(0.0123, share=True) == "+1.2 pt"
    assert words.say_change(-0.0001, share=True) == "0.0 pt"
    assert words.say_ratio(25.0, 100.0, "smaller", "larger") == "4.0× smaller"
    assert words.say_ratio(0.0, 100.0, "smaller", "larger") == ""


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert svg.ticks(0.913, 0.987) == [0.92, 0.94, 0.96, 0.98]
    assert svg.log_ticks(15, 700) == [20, 50, 100, 200, 500]
    scale = svg.fit([10, 1000], 0, 100, log=True, room=0)
    assert scale(100) == pytest.approx(50)


def test_agreement_becomes_a_colour_between_floor_and_ceiling(world: World) -> None:
    lines = {one.model: one for one in view.glances(world.plan, world.summary())}
    share = {m: int(re.findall(r"(\d+)%", view._colour(lines[m]))[0]) for m in ("pruned", "slim-int8")}
    row = lines["slim-int8"].agreement
    assert row is not None
    assert share["slim-int8"] == round(100 * (row.value - row.floor) / (row.ceiling - row.floor))
    assert share["slim-int8"] < share["pruned"] <= 100
    assert view._colour(lines[DENSE]) == ""
    row.floor, row.ceiling = row.ceiling, row.floor  # there is no place between them
    assert view._colour(lines["slim-int8"]) == "var(--faint)"


def test_curves_find_their_axis_and_long_arrays_are_sorted() -> None:
    same = np.linspace(0, 1, 4)
    found = arrays.curves_of(
        {"a": {"t": same, "y": np.array([0.1, 0.2, 0.3, 0.4])}, "b": {"t": same, "y": np.array([0.4, 0.2, 0.1, 0.0])}},
        {"a": "red", "b": "blue"},
    )
    assert [one.title for one in found] == ["y"]
    assert ">t<" in found[0].plot
    x, y, label = arrays._points({"s": np.arange(500.0)[::-1]}, "s", None)
    assert label == "share of values"
    assert y[0] == pytest.approx(0.05 * 499)
    assert y[-1] == pytest.approx(0.95 * 499)
    assert (np.diff(y) > 0).all()
    assert x[-1] == pytest.approx(0.95)


def test_arrays_with_named_columns_are_drawn_a_line_a_column() -> None:
    layered: dict[str, np.ndarray] = {
        "epoch": np.array([0, 5, 10]),
        "layer": np.array(["first", "<last>"]),
        "bits": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]]),
        "other": np.ones((3, 2)),
        "pair": np.arange(8).reshape(2, 4),  # no names for its columns
        "plain": np.array([1.0, 2.0, 1.5]),
    }
    found = arrays.tables_of({"dense": layered, "pruned": {}})
    assert [(one.title, one.note) for one in found] == [("bits", "dense"), ("other", "dense")]
    bits = str(found[0].plot)
    assert bits.count("<path") == 2
    assert ">first</text>" in bits
    assert ">&lt;last&gt;</text>" in bits
    assert ">epoch</text>" in bits
    assert "first: 3.00 at 5" in bits
    assert arrays.tables_of({"dense": {name: a for name, a in layered.items() if name != "layer"}}) == []
    # What is left are curves; the columns' names are not those of stations.
    square = {**layered, "layer": np.array(["a", "b", "c"]), "bits": np.ones((3, 3)), "other": np.ones((3, 3))}
    assert set(arrays._rest(square)) == {"epoch", "plain"}
    drawn = arrays.curves_of({"dense": arrays._rest(square)}, {"dense": "red"})
    assert [one.title for one in drawn] == ["plain"]
    assert "(a)" not in str(drawn[0].plot)


def test_a_plane_is_one_array_over_another() -> None:
    layered: dict[str, np.ndarray] = {
        "epoch": np.array([0, 5, 10]),
        "plane": np.array(["bits_in", "bits_out"]),
        "layer": np.array(["first", "last"]),
        "bits_in": np.array([[4.0, 1.0], [3.0, 2.0], [2.0, 1.5]]),
        "bits_out": np.array([[0.0, 0.1], [0.5, 0.6], [1.0, 0.9]]),
    }
    found = arrays.tables_of({"dense": layered})
    assert [one.title for one in found] == ["bits_out over bits_in", "bits_in", "bits_out"]
    plane = str(found[0].plot)
    assert found[0].note == "dense, from the first epoch to the dot"
    assert "last: 0.600 at 2 (epoch 5)" in plane
    assert ">bits in</text>" in plane
    assert ">bits out</text>" in plane
    corners = [[float(v) for v in p.split()] for p in re.findall(r'd="M([^"]*)" class="curve"', plane)[0].split("L")]
    assert corners[0][0] > corners[1][0] > corners[2][0]  # to the left as bits are lost,
    assert corners[0][1] > corners[1][1] > corners[2][1]  # and up
    unknown = arrays.tables_of({"dense": {**layered, "plane": np.array(["bits_in", "nowhere"])}})
    assert [one.title for one in unknown] == ["bits_in", "bits_out"]


def test_an_axis_of_growing_steps_is_logarithmic() -> None:
    def places(epochs: list[float]) -> list[float]:
        drawn = str(plots.curves([plots.Line("a", epochs, [1.0] * len(epochs), "red")], "epoch", "", str))
        return [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn)]

    even = np.diff(places([0, 100, 200, 300, 400, 500]))
    assert even == pytest.approx(even[0] * np.ones(5), abs=0.02)
    growing = np.diff(places([0, 1, 2, 4, 8, 16, 32, 64, 128]))
    assert growing == pytest.approx(growing[0] * np.ones(8), abs=0.02)


def test_per_class_changes_are_against_the_dense_model(world: World) -> None:
    results = {DENSE: {"per_class": np.array([0.9, 0.5])}, "pruned": {"per_class": np.array([0.8, 0.5])}}
    table = arrays.class_table("any", results, ("a", "b"), ["pruned"])
    assert table is not None
    assert [c.shown for c in table.rows[0][1]] == ["90.0 %", "50.0 %"]
    assert [c.change for c in table.rows[1][1]] == ["−10.0 pt", "0.0 pt"]
    assert table.rows[1][1][0].heat == -1
    assert arrays.class_table("any", {DENSE: {}}, ("a", "b"), []) is None


def test_ticks_that_look_the_same_have_more_digits() -> None:
    names = [name for _, name in svg.named_ticks(svg.fit([2.531, 2.539], 0, 100), lambda v: f"{v:.2f}", 4)]
    assert len({*names}) == len(names) > 2
    assert names == ["2.5325", "2.535", "2.5375"]
    assert [name for _, name in svg.named_ticks(svg.fit([0, 1], 0, 100), lambda v: f"{v:.2f}", 3)] == ["0", "0.5", "1"]
