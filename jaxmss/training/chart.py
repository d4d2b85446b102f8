"""Curves as HTML: lines in inline SVG that stretch with the page, their numbers as text that does not."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmss.demo.page import minus
from jaxmss.typing import Float

_TICKS = 6  # at most, on an axis
_POINTS = 400  # of a curve, at most: more than a screen can show only make the page heavy
COLOURS = 6  # that the page's style names
END = ' class="end"'  # of a number too near the edge to be centred


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
      name: for the key.
      x, y: its points, from left to right; what is not finite is left out.
      colour: number of its colour, from 0.
      dashed: whether it is drawn so.
    """

    name: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    colour: int = 0
    dashed: bool = False


def chart(title: str, curves: Sequence[Curve], decimals: int) -> str:
    """Return a figure of curves over steps, with a key that gives each one's last value, or nothing without a point.

    The key's values have so many `decimals`.
    """
    points = [_thinned(curve) for curve in curves] or [(np.zeros(0), np.zeros(0))]
    every_x, every_y = (np.concatenate([point[axis] for point in points]) for axis in (0, 1))
    if not every_y.size:
        return ""
    right = max(float(every_x.max()), 1.0)
    low, high = _range(every_y)
    lines, key = [], []
    for curve, (x, y) in zip(curves, points, strict=True):
        x, y = (np.repeat(axis, 2) for axis in (x, y)) if len(x) == 1 else (x, y)  # a dot, where there is no line yet
        style = f"c{curve.colour % COLOURS}{' dashed' if curve.dashed else ''}"
        path = " ".join(
            f"{100 * a / right:.2f},{100 * (high - b) / (high - low):.2f}" for a, b in zip(x, y, strict=True)
        )
        lines.append(f'<polyline class="{style}" points="{path}"/>')
        last = minus(f"{y[-1]:.{decimals}f}") if y.size else "\N{EN DASH}"
        key.append(f'<li><i class="{style}"></i>{html.escape(curve.name)} {last}</li>')
    heights, places = ticks(low, high), ticks(0.0, right)
    grid = "".join(
        f'<line x1="0" x2="100" y1="{y}" y2="{y}"/>' for y in (_percent(high - t, high - low) for t in heights)
    )
    values = "".join(f'<span style="bottom:{_percent(t - low, high - low)}%">{minus(f"{t:g}")}</span>' for t in heights)
    steps = "".join(
        f'<span{END if t > 0.95 * right else ""} style="left:{_percent(t, right)}%">{t:,.0f}</span>'
        for t in places
        if t == int(t)
    )
    return f"""<figure>
<figcaption><h3>{html.escape(title)}</h3></figcaption>
<div class="plot">
<div class="frequencies" aria-hidden="true">{values}</div>
<div class="picture chart"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"
 aria-label="{html.escape(title)}, from step 0 to {right:,.0f}">{grid}{"".join(lines)}</svg></div>
<div class="times" aria-hidden="true">{steps}</div>
</div>
<ul class="key">{"".join(key)}</ul>
</figure>"""


def ticks(low: float, high: float) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten from `low` to `high`, at most `_TICKS`."""
    exponent = math.floor(math.log10((high - low) / _TICKS))
    step = next(s for e in (exponent, exponent + 1) for m in (1, 2, 5) if (high - low) / (s := m * 10.0**e) < _TICKS)
    return [round(step * k, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thinned(curve: Curve) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return the finite points, neighbours averaged where there are too many."""
    kept = np.isfinite(curve.y)
    x, y = curve.x[kept], curve.y[kept]
    if len(x) <= _POINTS:
        return x, y
    starts = np.arange(0, len(x), -(-len(x) // _POINTS))
    counts = np.diff(starts, append=len(x))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _range(y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the ends of an axis that holds 0 and nearly all points: a few wild ones would flatten the rest."""
    low, high = np.percentile(y, [1, 99])
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    margin = 0.06 * (high - low) or 1.0
    return low - margin * (low < 0), high + margin


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f}"
