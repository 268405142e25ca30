"""SVG by hand: elements, scales and axes. Colours are the page's CSS variables, so a plot follows the theme."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

LINES = 8
"""How many colours for models the style sheet has: `--m0` to `--m7`."""


def tag(name: str, attributes: Mapping[str, object], *children: object) -> Markup:
    """An element; texts and attributes are escaped, numbers rounded to a hundredth."""
    shown = "".join(f' {key}="{escape(_text(value))}"' for key, value in attributes.items() if value is not None)
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), Markup(shown), inner, Markup(name))


def _text(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, css: str = "", anchor: str = "start") -> Markup:
    """A piece of text with its baseline at y."""
    return tag("text", {"x": x, "y": y, "class": css or None, "text-anchor": anchor}, words)


def line(x1: float, y1: float, x2: float, y2: float, css: str, style: str | None = None) -> Markup:
    """A straight line."""
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": css, "style": style})


def path(points: Sequence[tuple[float, float]], css: str, style: str | None = None) -> Markup:
    """A line through points, broken where one is not finite."""
    parts, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return tag("path", {"d": "".join(parts), "class": css, "style": style})


def mark(tip: str, shape: Markup, *more: Markup) -> Markup:
    """Shapes that say something when one points at them or reaches them by keyboard."""
    return tag("g", {"class": "mark", "tabindex": 0, "role": "img"}, tag("title", {}, tip), shape, *more)


def figure(width: float, height: float, label: str, *children: Markup) -> Markup:
    """A drawing that fits the width it is given."""
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "class": "plot", "role": "group", "aria-label": label}
    return tag("svg", attributes, *children)


@dataclass(frozen=True)
class Scale:
    """Values in [low, high] to places in [start, end], evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values in [low, high]."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in [low, high], fewer where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]
    return [10.0**p for p in powers if low <= 10.0**p <= high] if len(found) > 6 else found


def fit(values: Sequence[float], start: float, end: float, log: bool = False, room: float = 0.08) -> Scale:
    """A scale that holds the finite values with some room; [0, 1] where there are none."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return Scale(0.1 if log else 0.0, 1.0, start, end, log)
    low, high = min(finite), max(finite)
    if log:
        factor = max(high / low, 1.5) ** room
        return Scale(low / factor / 1.05, high * factor * 1.05, start, end, True)
    width = (high - low) or abs(high) or 1.0
    return Scale(low - room * width, high + room * width, start, end)


def spread(values: Sequence[float], factor: float = 8) -> bool:
    """Whether values are positive and span so much that a logarithmic scale shows them better."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= factor


def named_ticks(scale: Scale, show: Callable[[float], str], count: int) -> list[tuple[float, str]]:
    """The ticks with their names, in more digits where those of `show` do not tell them apart."""
    values = scale.ticks(count)
    names = [trim(show(v)) for v in values]
    return list(zip(values, names if len({*names}) == len(names) else [f"{v:.6g}" for v in values], strict=True))


def x_axis(scale: Scale, y: float, top: float, show: Callable[[float], str], count: int = 5) -> Markup:
    """Grid lines from `top` to `y` and the values below."""
    return Markup("").join(
        line(scale(v), top, scale(v), y, "grid") + text(scale(v), y + 16, name, "tick", "middle")
        for v, name in named_ticks(scale, show, count)
    )


def y_axis(scale: Scale, x: float, right: float, show: Callable[[float], str], count: int = 5) -> Markup:
    """Grid lines from `x` to `right` and the values left of them."""
    return Markup("").join(
        line(x, scale(v), right, scale(v), "grid") + text(x - 6, scale(v) + 4, name, "tick", "end")
        for v, name in named_ticks(scale, show, count)
    )


def trim(words: str) -> str:
    """A number without the zeros that end its decimals: `0.50 ms` as `0.5 ms`."""
    return re.sub(r"(\.\d*?)0+(?= |$)", r"\1", words).replace(". ", " ").removesuffix(".")


def shorten(words: str, letters: int) -> str:
    """The words, cut with an ellipsis where they are too long."""
    return words if len(words) <= letters else words[: letters - 1] + "…"
