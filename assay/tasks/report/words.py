"""Numbers and verdicts as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from assay.tasks.summary import Row, Summary

NONE = "–"

VERDICTS = {
    "faithful": ("ok", "✓", "The whole interval of variant minus ceiling is above minus the margin: its maps are as "
                 "like the dense model's as a retrained model's are."),
    "drifted": ("bad", "✗", "The whole interval of variant minus ceiling is below minus the margin: compression moved "
                "the maps further than retraining does."),
    "not distinguishable": ("warn", "≈", "The interval of variant minus ceiling holds minus the margin, so the images "
                            "do not tell whether compression moved the maps further than retraining does; or "
                            "the number is not clear of its floor, so this measure cannot tell."),
    "not auditable": ("mute", "∅", "The question cannot be asked of this model; the reason stands beside it."),
}  # fmt: skip
"""For each verdict its colour, its sign and what it means."""

TERMS = {
    "dense model": "The model as trained, before any compression. Variants are compared with it.",
    "variant": "A compressed version of the dense model, made by a chain of links.",
    "link": "One step of compression: it records what it decided and gives a new model.",
    "attribution map": "What a saliency method says each input pixel contributed to the dense model's predicted class.",
    "agreement": "How alike a model's map and the dense model's map of the same image are, mean over images.",
    "audit": "A measure of one model's maps by themselves: do they lie on the evidence, do they predict what matters.",
    "floor": "The best that a control without knowledge reaches: a randomly initialised model, or random, constant and "
    "edge-detector maps. A number near its floor says nothing.",
    "ceiling": "What the dense model retrained with another seed reaches. Compression cannot be asked for more: a "
    "number at its ceiling is as good as training luck allows.",
    "gap": "How far a number is above its ceiling, in the direction in which it is better, paired by image.",
    "drop": "How much worse a number is than the dense model's, in the direction in which it is better, paired by "
    "example where there are values for each; negative where the variant is better.",
    "interval": "95 % bootstrap interval. Differences are paired: both models on the same examples.",
    "n": "How many examples the number is a mean of.",
    "label kept, flipped": "The same number over the images on which the variant predicts the dense model's class, and "
    "over those on which it predicts another.",
    "gate": "A condition set before the run. It is judged for each variant on the unfavourable end of the interval; a "
    "missing or not auditable number fails.",
    **{verdict: meaning for verdict, (_, _, meaning) in VERDICTS.items()},
    "reliability diagram": "Accuracy of the examples that the model answers with about the same confidence. On the "
    "diagonal confidence can be taken at its word; below it the model is over-confident.",
    "key": "A hash of everything that a result depends on: method, parameters, inputs, code, versions, seed.",
}
"""The report's own words."""


def say(value: float, unit: str = "", share: bool = False) -> str:
    """A number for people: bytes as kB or MB, shares as per cent, others to three or four digits."""
    if not math.isfinite(value):
        return NONE
    if share:
        return f"{100 * value:.1f} %".replace("-", "−")
    if unit == "B":
        return _bytes(value)
    shown = _digits(value).replace("-", "−")
    # A long unit is the quantity's name (correlation, area), which the glossary says.
    return f"{shown} {unit}" if 0 < len(unit) <= 3 else shown


def _bytes(value: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= limit:
            return f"{_digits(value / limit)} {unit}"
    return f"{value:.0f} B"


def _digits(value: float) -> str:
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    shown = f"{value:.3f}" if size >= 0.001 or value == 0 else f"{value:.1e}"
    return shown.replace("-0.000", "0.000")


def say_change(value: float, unit: str = "", share: bool = False) -> str:
    """A difference with its sign; of shares in points of per cent."""
    if not math.isfinite(value):
        return NONE
    shown = f"{100 * value:+.1f}" if share else f"{value:+.3f}" if abs(value) < 1 and not unit else say(value, unit)
    if value > 0 and not shown.startswith("+"):
        shown = "+" + shown
    return (
        (shown + " pt" if share else shown).replace("-", "−").replace("+0.0 pt", "0.0 pt").replace("−0.0 pt", "0.0 pt")
    )


def say_ratio(now: float, before: float, less: str, more: str) -> str:
    """How many times less or more a number is than before: `4.2× smaller`, `as dense`; '' where unknown."""
    if not (math.isfinite(now) and math.isfinite(before)) or now <= 0 or before <= 0:
        return ""
    ratio, word = (before / now, less) if before >= now else (now / before, more)
    if ratio < 1.005:
        return "as dense"
    shown = f"{ratio:.2f}×" if ratio < 1.995 else f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"
    return f"{shown} {word}"


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def count(number: int, one: str, many: str = "") -> str:
    """`1 variant`, `4 variants`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def role(model: str, summary: Summary) -> str:
    """What a model of a row is to the run: dense, variant, ceiling or floor."""
    if model in summary.variants:
        return "variant"
    return "ceiling" if model.startswith("reseeded-") else "dense" if model == "dense" else "floor"


@dataclass(frozen=True)
class Words:
    """Says the numbers of a run. `shares` are the methods' fields that are shares of examples."""

    shares: frozenset[tuple[str, str]]

    def share(self, row: Row) -> bool:
        """Whether a number is a share, to be said in per cent."""
        return row.unit in ("share", "%") or (row.method, row.field) in self.shares

    def number(self, row: Row, value: float) -> str:
        """A value in the row's unit."""
        return say(value, row.unit, self.share(row))

    def value(self, row: Row) -> str:
        """The row's value, or why there is none."""
        return self.number(row, row.value)

    def interval(self, row: Row) -> str:
        """The row's interval; '' where it is a point."""
        return self.range(row, row.low, row.high)

    def range(self, row: Row, low: float, high: float) -> str:
        """`low to high` in the row's unit, the unit once; '' where there is no interval."""
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            return ""
        first, last = self.number(row, low), self.number(row, high)
        unit = f" {row.unit}" if row.unit and first.endswith(f" {row.unit}") else " %" if first.endswith(" %") else ""
        return f"{first.removesuffix(unit)} to {last}"

    def change(self, row: Row, value: float) -> str:
        """A difference of such numbers."""
        return say_change(value, row.unit, self.share(row))

    def drop(self, row: Row, value: float) -> str:
        """How much worse such a number is; of shares in points of per cent."""
        if self.share(row) and math.isfinite(value):
            return f"{100 * value:.1f} pt".replace("-0.0", "0.0").replace("-", "−")
        return self.number(row, value)

    def changes(self, row: Row, low: float, high: float) -> str:
        """An interval of a difference; '' where there is none."""
        if not (math.isfinite(low) and math.isfinite(high)) or low == high:
            return ""
        return f"{self.change(row, low).removesuffix(' pt')} to {self.change(row, high)}"

    def tip(self, row: Row) -> str:
        """Everything about a number in a sentence or two, for pointing at it."""
        if row.reason and not math.isfinite(row.value):
            return f"{row.model}, {row.name}: not auditable, {row.reason}"
        parts = [f"{row.model}, {row.name}: {self.value(row)}"]
        if self.interval(row):
            parts.append(f"95 % {self.interval(row)}")
        if row.n:
            parts.append(f"n = {row.n:,}")
        if math.isfinite(row.floor):
            parts.append(f"floor {self.number(row, row.floor)}")
        if math.isfinite(row.ceiling):
            parts.append(f"ceiling {self.number(row, row.ceiling)}")
        verdict = f" ({row.verdict}{': ' + row.reason if row.reason else ''})" if row.verdict else ""
        return ", ".join(parts) + verdict


def params_text(params: dict[str, Any]) -> str:
    """Parameters as `a 1, b 2`."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in params.items())


def predicting(method: Any) -> str:
    """How every model predicts, in a sentence; '' where that is by its own pass (None)."""
    if method is None:
        return ""
    return f"Every model predicts by {method.method_name()} ({params_text(method.model_dump(mode='json'))})."


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def title(summary: Summary) -> tuple[str, str]:
    """The report's verdict in a line, and its colour."""
    if not summary.variants:
        return "The dense model by itself: no variants were asked for", "mute"
    if not summary.gates:
        return f"{count(len(summary.variants), 'variant')} measured; no gates were set", "mute"
    passed = [v for v in summary.variants if summary.variant_passed(v)]
    gates = count(len({g.gate for g in summary.gates}), "gate")
    if len(passed) == len(summary.variants):
        return (f"{passed[0]} passes {gates}" if len(passed) == 1 else f"All {len(passed)} variants pass {gates}"), "ok"
    if not passed:
        single = len(summary.variants) == 1
        return (
            f"{summary.variants[0]} fails" if single else f"None of the {len(summary.variants)} variants passes"
        ), "bad"
    verb = "passes" if len(passed) == 1 else "pass"
    return f"{len(passed)} of {len(summary.variants)} variants {verb}: {listing(passed)}", "warn"


def verdict_counts(rows: Iterable[Row]) -> dict[str, int]:
    """How often each verdict was given, in the order of VERDICTS."""
    given = [row.verdict for row in rows if row.verdict]
    return {verdict: given.count(verdict) for verdict in VERDICTS if verdict in given}
