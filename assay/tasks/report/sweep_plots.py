"""The plot of a sweep: what the values of one path do to one number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from markupsafe import Markup

from assay.tasks.report import svg
from assay.tasks.report.plots import Show
from assay.tasks.report.svg import Scale, figure, fit, line, mark, path, shorten, tag, text

MAX_WHISKERS = 60
MAX_THREADED = 250
MAX_DOTS = 3000
LABELS = 8
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 350.0, 236.0, 50.0, 12.0, 190.0
RIGHT = WIDTH - 14


@dataclass(frozen=True)
class Dot:
    """A number of one model of one point. `x` is the value of the path, in words where `place` is a rank;
    dots of a model with the same `thread` differ in nothing but the path's value."""

    model: str
    place: float
    y: float
    low: float
    high: float
    thread: Hashable
    tip: str


def effect(
    dots: Sequence[Dot],
    colours: Mapping[str, str],
    words: Sequence[str],
    x_label: str,
    label: str,
    show: Show,
) -> Markup:
    """Each point's number over the value of one path, what differs only in that value joined by a thin line,
    and the mean of each model; '' where there is nothing to draw. `words` names the places 0, 1, ... where
    the values are no numbers."""
    dots = [dot for dot in dots if math.isfinite(dot.y)]
    if not dots:
        return Markup("")
    places = sorted({dot.place for dot in dots})
    log = not words and svg.spread(places)
    x = Scale(-0.5, len(words) - 0.5, LEFT, RIGHT) if words else fit(places, LEFT + 8, RIGHT, log)
    few = len(dots) <= MAX_WHISKERS
    y = fit([v for d in dots for v in ((d.y, d.low, d.high) if few else (d.y,))], BOTTOM, TOP)
    parts = [svg.y_axis(y, LEFT, RIGHT, show, 4), _x_axis(x, places, words)]
    parts.append(text(RIGHT, HEIGHT - 8, x_label + (" (log scale)" if log else ""), "axis", "end"))
    models = [model for model in colours if any(dot.model == model for dot in dots)]
    drawn: list[Markup] = []
    means: list[Markup] = []
    for i, model in enumerate(models):
        shift = 7.0 * (i - (len(models) - 1) / 2) if len(models) <= 6 else 0.0
        own = [replace(dot, place=x(dot.place) + shift) for dot in dots if dot.model == model]
        drawn += _dots(own, y, colours[model], len(dots)) if len(dots) <= MAX_DOTS else _spans(own, y, colours[model])
        means += _means(own, y, colours[model], bool(words))
    parts += [*means, *drawn] if few else [*drawn, *means]  # what there is less of must not be covered
    return figure(WIDTH, HEIGHT, label, *parts)


def _x_axis(x: Scale, places: Sequence[float], words: Sequence[str]) -> Markup:
    if words:
        step = math.ceil(len(words) / LABELS)
        letters = max(4, int(46 / min(len(words), LABELS)))
        shown = [(float(i), shorten(words[i], letters)) for i in range(0, len(words), step)]
    else:
        shown = [(place, f"{place:g}") for place in places]
        gaps = [x(b) - x(a) for a, b in itertools.pairwise(places)]
        if len(shown) > LABELS or (gaps and min(gaps) < 34):
            shown = [(v, f"{v:g}") for v in x.ticks(5)]
    return Markup("").join(
        line(x(v), TOP, x(v), BOTTOM, "grid") + text(x(v), BOTTOM + 16, name, "tick", "middle") for v, name in shown
    )


def _means(dots: Sequence[Dot], y: Scale, colour: str, ranks: bool) -> list[Markup]:
    """The mean over each place of one model's dots: a line through them, or a stroke each."""
    means = [(at, y(fmean(d.y for d in dots if d.place == at))) for at in sorted({d.place for d in dots})]
    strokes = [[(at - 8, high), (at + 8, high)] for at, high in means] if ranks else [means]
    return [path(p, css, f"stroke:{c}") for p in strokes for css, c in (("halo", "var(--card)"), ("mean", colour))]


def _spans(dots: Sequence[Dot], y: Scale, colour: str) -> list[Markup]:
    """From the lowest to the highest of one model's dots at each place: of so many no eye tells single ones."""
    parts = []
    for place in sorted({d.place for d in dots}):
        values = [d.y for d in dots if d.place == place]
        style = f"stroke:{colour};stroke-opacity:.45"
        parts.append(line(place, y(min(values)), place, y(max(values)), "whisker", style))
    return parts


def _dots(dots: Sequence[Dot], y: Scale, colour: str, total: int) -> list[Markup]:
    """One model's threads and dots; of many dots smaller ones, without threads."""
    few = total <= MAX_WHISKERS
    parts: list[Markup] = []
    threads: dict[Hashable, list[Dot]] = {}
    for dot in dots:
        threads.setdefault(dot.thread, []).append(dot)
    if total <= MAX_THREADED:
        for own in threads.values():
            ordered = sorted(own, key=lambda dot: dot.place)
            parts.append(path([(d.place, y(d.y)) for d in ordered], "thread", f"stroke:{colour}"))
    radius = 4.5 if few else 3.2 if total <= MAX_THREADED else 2.2
    for dot in dots:
        at = {"cx": dot.place, "cy": y(dot.y), "r": radius, "class": "dot", "style": f"fill:{colour}"}
        if total > MAX_THREADED:  # so many would take for ever to walk through by keyboard
            parts.append(tag("circle", {**at, "class": "dot many"}, tag("title", {}, dot.tip)))
            continue
        shapes = [tag("circle", at)]
        if few and math.isfinite(dot.low) and math.isfinite(dot.high) and dot.high > dot.low:
            style = f"stroke:{colour};stroke-opacity:.45"
            shapes.insert(0, line(dot.place, y(dot.low), dot.place, y(dot.high), "whisker", style))
        parts.append(mark(dot.tip, *shapes))
    return parts
