"""The report's plots: each takes plain values and gives one SVG drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from assay.tasks.report import svg
from assay.tasks.report.svg import Scale, figure, fit, line, mark, path, shorten, tag, text

Show = Callable[[float], str]


@dataclass(frozen=True)
class Point:
    """A model in a scatter plot. `colour` is a CSS colour, '' for a model that has none."""

    name: str
    x: float
    y: float
    low: float
    high: float
    colour: str
    tip: str


def scatter(points: Sequence[Point], label: str, x_label: str, y_label: str, show_x: Show, show_y: Show) -> Markup:
    """Models by two numbers, with the interval of y; '' where no model has both."""
    points = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not points:
        return Markup("")
    width, height, left, top, bottom = 400.0, 290.0, 50.0, 26.0, 240.0
    right = width - 14
    xs = [p.x for p in points]
    x = fit(xs, left, right, svg.spread(xs), room=0.14)
    y = fit([v for p in points for v in (p.y, p.low, p.high)], bottom, top, room=0.1)
    parts = [
        svg.y_axis(y, left, right, show_y),
        svg.x_axis(x, bottom, top, show_x),
        text(left - 40, 14, y_label, "axis"),
        text(right, height - 8, x_label + (" (log scale)" if x.log else ""), "axis", "end"),
    ]
    boxes = [(x(p.x) - 8, y(p.y) - 8, x(p.x) + 8, y(p.y) + 8) for p in points]
    boxes += [(x(p.x) - 2, y(p.high), x(p.x) + 2, y(p.low)) for p in points if math.isfinite(p.low + p.high)]
    for p in points:
        at = (x(p.x), y(p.y))
        parts.append(mark(p.tip, *_dot(p, at, y), _label(p.name, at, boxes, left, right, top, bottom)))
    return figure(width, height, label, *parts)


def _dot(p: Point, at: tuple[float, float], y: Scale) -> list[Markup]:
    shapes = []
    if math.isfinite(p.low) and math.isfinite(p.high):
        shapes.append(line(at[0], y(p.low), at[0], y(p.high), "whisker"))
    style = f"fill:{p.colour}" if p.colour else None
    css = "dot" if p.colour else "dot hollow"
    shapes.append(tag("circle", {"cx": at[0], "cy": at[1], "r": 7, "class": css, "style": style}))
    return shapes


def _label(
    name: str, at: tuple[float, float], taken: list[tuple[float, float, float, float]],
    left: float, right: float, top: float, bottom: float,
) -> Markup:  # fmt: skip
    """The name where it covers nothing: right of the dot, left, above, below, or further off."""
    shown = shorten(name, 22)
    wide = 6.6 * len(shown)
    x, y = at
    places = [(x + 11, y + 4), (x - 11 - wide, y + 4), (x - wide / 2, y - 12), (x - wide / 2, y + 21)]
    places += [(x + 9, y - 9), (x + 9, y + 17), (x - 9 - wide, y - 9), (x - 9 - wide, y + 17)]
    places += [(x - wide / 2, y - 27), (x - wide / 2, y + 35)]
    best, least = places[0], math.inf
    for a, b in places:
        box = (a, b - 11, a + wide, b + 3)
        cost = sum(_overlap(box, other) for other in taken)
        cost += 1e3 * (max(0.0, left - a) + max(0.0, a + wide - right) + max(0.0, top - b) + max(0.0, b - bottom))
        if cost < least - 1e-9:
            best, least = (a, b), cost
    taken.append((best[0], best[1] - 11, best[0] + wide, best[1] + 3))
    return text(best[0], best[1], shown, "name")


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Bar:
    """One model's number and interval. `css` is its verdict's class; `note` stands where there is no number."""

    name: str
    value: float
    low: float
    high: float
    css: str
    tip: str
    note: str = ""


def intervals(
    bars: Sequence[Bar], floor: float, ceiling: float, controls: Sequence[tuple[str, float]], label: str, show: Show
) -> Markup:
    """Numbers with their intervals, one below the other, between the floor and the ceiling. `controls`
    are ticks along the bottom: each control by name."""
    width, left, right, top, step = 350.0, 92.0, 296.0, 26.0, 26.0
    bottom = top + step * max(len(bars), 1)
    values = [v for b in bars for v in (b.value, b.low, b.high)] + [floor, ceiling] + [v for _, v in controls]
    x = fit(values, left, right)
    parts = [_band(x, floor, ceiling, top - 4, bottom), svg.x_axis(x, bottom, top - 4, show, 4)]
    for words, value, other in (("floor", floor, ceiling), ("ceiling", ceiling, floor)):
        if math.isfinite(value):
            near = math.isfinite(other) and abs(x(value) - x(other)) < 44
            before = value < other or (value == other and words == "floor")
            anchor = "middle" if not near else "end" if before else "start"
            apart = 0 if not near else -3 if before else 3
            parts.append(line(x(value), top - 4, x(value), bottom, words))
            parts.append(text(x(value) + apart, 14, words, f"tick {words}", anchor))
    for name, value in controls:
        if math.isfinite(value):
            triangle = f"M{x(value):.1f} {bottom - 7:.1f}l4 7h-8z"
            parts.append(mark(f"{name}: {show(value)}", tag("path", {"d": triangle, "class": "control"})))
    for i, b in enumerate(bars):
        parts.append(_bar(b, x, top + step * (i + 0.5), left, right, show))
    return figure(width, bottom + 24, label, *parts)


def _band(x: Scale, floor: float, ceiling: float, top: float, bottom: float) -> Markup:
    if not (math.isfinite(floor) and math.isfinite(ceiling)):
        return Markup("")
    a, b = sorted((x(floor), x(ceiling)))
    return tag("rect", {"x": a, "y": top, "width": b - a, "height": bottom - top, "class": "band"})


def _bar(b: Bar, x: Scale, y: float, left: float, right: float, show: Show) -> Markup:
    name = text(left - 8, y + 4, shorten(b.name, 14), "name", "end")
    if not math.isfinite(b.value):
        return mark(b.tip, name, text(left + 4, y + 4, b.note or "not auditable", "note"))
    shapes = [name]
    if math.isfinite(b.low) and math.isfinite(b.high) and b.high > b.low:
        shapes.append(line(x(b.low), y, x(b.high), y, f"whisker {b.css}"))
    shapes.append(tag("circle", {"cx": x(b.value), "cy": y, "r": 5, "class": f"dot {b.css}"}))
    shapes.append(text(right + 8, y + 4, show(b.value), "value"))
    return mark(b.tip, *shapes)


def reliability(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray, label: str) -> Markup:
    """Accuracy against confidence, one dot a bin, its area by the bin's examples; '' without examples."""
    total = float(np.nansum(count))
    if not total:
        return Markup("")
    size, left, top, bottom = 200.0, 36.0, 10.0, 152.0
    right = left + bottom - top
    x, y = Scale(0, 1, left, right), Scale(0, 1, bottom, top)
    parts = [svg.y_axis(y, left, right, _percent, 2), svg.x_axis(x, bottom, top, _percent, 2)]
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    full = [i for i in range(len(count)) if count[i] and np.isfinite(confidence[i]) and np.isfinite(accuracy[i])]
    for i in full:
        c, a = float(confidence[i]), float(accuracy[i])
        tip = f"{int(count[i])} examples: mean confidence {c:.1%}, accuracy {a:.1%}"
        radius = 2.5 + 6 * math.sqrt(count[i] / total)
        gap = line(x(c), y(c), x(c), y(a), "gap")
        parts.append(mark(tip, gap, tag("circle", {"cx": x(c), "cy": y(a), "r": radius, "class": "dot plain"})))
    parts.append(text(right, bottom + 32, "confidence", "axis", "end"))
    return figure(size, bottom + 38, label, *parts)


def _percent(value: float) -> str:
    return f"{value:.0%}"


@dataclass(frozen=True)
class Line:
    """A model's curve. `colour` is a CSS colour; `names` says what each point is, where that is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False
    names: Sequence[str] = field(default_factory=tuple)


def curves(lines: Sequence[Line], x_label: str, label: str, show: Show, y_label: str = "", key: bool = False) -> Markup:
    """Curves over one axis, or paths where each line has an x of its own; '' where nothing is finite.

    An axis from 0 on whose steps grow has a logarithmic scale. With a `key` the lines' names stand below, and each
    line's last point is marked.
    """
    ys = [v for one in lines for v in one.y]
    if not any(math.isfinite(v) for v in ys):
        return Markup("")
    width, height, left, top, bottom = 350.0, 216.0, 46.0, 26.0 if y_label else 12.0, 172.0
    right = width - 12
    shared = all(list(one.x) == list(lines[0].x) for one in lines)
    least = _growing(lines[0].x) if shared else 0.0
    x = fit([v or least / 2 for one in lines for v in one.x], left, right, least > 0, room=0.02)
    y = fit(ys, bottom, top, key and shared and svg.spread(ys, 50))
    parts = [svg.y_axis(y, left, right, show, 4), svg.x_axis(x, bottom, top, lambda v: f"{v:g}", 5)]
    if least and 0 in lines[0].x:
        parts.append(text(x(least / 2), bottom + 16, "0", "tick", "middle"))
    parts.append(text(right, height - 8, x_label, "axis", "end"))
    if y_label:
        parts.append(text(left - 40, 14, y_label, "axis"))
    for one in lines:
        style = f"stroke:{one.colour}" + (";stroke-dasharray:4 3" if one.dashed else "")
        places = [(x(a or least / 2), y(b)) for a, b in zip(one.x, one.y, strict=True)]
        parts.append(tag("g", {"class": "mark"}, tag("title", {}, one.name), path(places, "curve", style)))
        if len(one.x) <= 20:
            parts.extend(_stations(one, places, show))
        if key and all(map(math.isfinite, places[-1])):
            end = {"cx": places[-1][0], "cy": places[-1][1], "r": 4.5, "style": f"fill:{one.colour}"}
            parts.append(tag("circle", end))
    below, more = _key(lines, left, right, height + 10) if key else (Markup(""), 0.0)
    return figure(width, height + more, label, *parts, below)


def _growing(values: Sequence[float]) -> float:
    """The least positive value of an axis from 0 on whose steps grow, as epochs 0, 1, 2, 5, 10, 100; else 0."""
    positive = sorted(v for v in values if v > 0)
    even = len(positive) < 5 or min(values) < 0 or positive[-1] < 5 * positive[len(positive) // 2]
    return 0.0 if even else positive[0]


def _key(lines: Sequence[Line], left: float, right: float, y: float) -> tuple[Markup, float]:
    """The lines' names with their colours, in as many rows as it takes, and the height of that."""
    parts, x, rows = [], left, 1
    for one in lines:
        wide = 32 + 6.2 * len(one.name)
        if x + wide > right and x > left:
            x, rows = left, rows + 1
        at = y + 16 * (rows - 1)
        parts.append(line(x, at - 4, x + 14, at - 4, "curve", f"stroke:{one.colour};stroke-width:4"))
        parts.append(text(x + 19, at, one.name, "tick"))
        x += wide
    return Markup("").join(parts), 16.0 * rows + 4


def _stations(one: Line, places: Sequence[tuple[float, float]], show: Show) -> list[Markup]:
    shapes = []
    for i, (a, b) in enumerate(places):
        if math.isfinite(b):
            at = f" ({one.names[i]})" if i < len(one.names) else ""
            tip = f"{one.name}: {show(float(one.y[i]))} at {one.x[i]:g}{at}"
            dot = tag("circle", {"cx": a, "cy": b, "r": 2.6, "style": f"fill:{one.colour}"})
            shapes.append(tag("g", {"class": "mark"}, tag("title", {}, tip), dot))
    return shapes


def gauge(value: float, floor: float, ceiling: float, css: str, tip: str) -> Markup:
    """A small bar from the floor to the ceiling with the value on it; '' where one of them is missing."""
    if not all(math.isfinite(v) for v in (value, floor, ceiling)) or floor == ceiling:
        return Markup("")
    x = fit([value, floor, ceiling], 8.0, 192.0, room=0.04)
    a, b = sorted((x(floor), x(ceiling)))
    track = tag("rect", {"x": a, "y": 9, "width": b - a, "height": 6, "rx": 3, "class": "band"})
    ends = [line(x(floor), 5, x(floor), 19, "floor"), line(x(ceiling), 5, x(ceiling), 19, "ceiling")]
    dot = tag("circle", {"cx": x(value), "cy": 12, "r": 6, "class": f"dot {css}"})
    return figure(200, 24, tip, mark(tip, track, *ends, dot))
