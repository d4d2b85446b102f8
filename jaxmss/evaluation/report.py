"""report.html: the figures of a run, each track's frames as box plots, and the worst excerpts to see and hear."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.demo.page import Clip, common, figure, head, minus, section
from jaxmss.evaluation.aggregation import median_over_frames
from jaxmss.evaluation.excerpts import FRAMES, NOT_KEPT, Named, Worst, read_excerpt
from jaxmss.evaluation.published import TEST_TRACKS
from jaxmss.evaluation.results import COLUMNS, shown
from jaxmss.evaluation.run import Outcome

_SDR, *_OTHERS = COLUMNS
_TICKS = 6  # at most, on an axis


def write_report(output: Path, results: Mapping[str, Any], outcome: Outcome, worst: Sequence[Named]) -> None:
    """Write report.html from what `summarise` returned, what it was made of, and the worst excerpts of named tracks.

    Raises `AudioError` if it cannot be written.
    """
    path = output / "report.html"
    page = render(output, results, outcome, worst)
    with written_aside([path]) as [file], reporting(path):
        file.write(page.encode(errors="backslashreplace"))


def render(output: Path, results: Mapping[str, Any], outcome: Outcome, worst: Sequence[Named]) -> str:
    """Return the page; excerpts are read from `output`."""
    count = len(results["tracks"])
    files = resources.files("jaxmss.evaluation")
    template = Template(files.joinpath("report.html").read_text("utf-8"))
    title = f"{results['system']}: {count} track{'s' * (count != 1)} scored"
    speed = results["times_real_time"]
    return template.substitute(
        head=head(title, files.joinpath("report.css").read_text("utf-8")),
        title=html.escape(title),
        introduction=html.escape(
            f"{results['config']['data']['root']}, engine {results['config']['engine']}"
            + (f", separated at {speed:.3g} × real time" if speed else "")
            + (f" on {device}." if (device := results["config"]["device"]) else ".")
        ),
        note="" if count == TEST_TRACKS else f"Published figures are over the {TEST_TRACKS} test tracks of MUSDB18.",
        columns=_headers(["Stem", _SDR, "Published", "Difference", "System", *_OTHERS]),
        rows="\n".join(_row(stem, row) for stem, row in results["stems"].items()),
        problems=_problems(results),
        tracks="\n".join(_stem(stem, results["tracks"], outcome) for stem in results["stems"]),
        excerpts="\n".join(_excerpt(output, *named) for named in worst),
        facts=_facts(results),
        **common(),
    )


def _headers(names: list[str]) -> str:
    return "".join(
        f'<th scope="col" aria-sort="none" class="{"text" if name == "System" else ""}">'
        f'<button type="button">{html.escape(name)}</button></th>'
        for name in names
    )


def _cell(value: float | None, sign: str = "", kind: str = "") -> str:
    sorted_by = "" if value is None else repr(value)
    return f'<td class="{kind}" data-value="{sorted_by}">{minus(shown(value, sign))}</td>'


def _row(stem: str, row: Mapping[str, Any]) -> str:
    sdr, *others = (_cell(row["measures"][column]["median"]) for column in COLUMNS)
    told = row["published"] or {"SDR": None, "system": "", "difference": None}
    published = _cell(told["SDR"]) + _cell(told["difference"], "+", "difference")
    cells = [sdr, published, f'<td class="text">{html.escape(told["system"])}</td>', *others]
    return f'<tr><th scope="row">{html.escape(stem)}</th>{"".join(cells)}</tr>'


def _problems(results: Mapping[str, Any]) -> str:
    """Return the tracks without scores and why, and those whose estimates were fitted, or nothing."""
    headings = {"excluded": "Excluded, as BSS Eval cannot score them", "failed": "Failed"}
    headings |= {"fitted": "Estimates of another length than the track"}
    parts = []
    for kind, heading in headings.items():
        items = [f"<li>{html.escape(f'{track}: {reason}')}</li>" for track, reason in results[kind].items()]
        if items:
            parts.append(f"<section><h2>{heading} ({len(items)})</h2><ul>{''.join(items)}</ul></section>")
    return "\n".join(parts)


def _stem(stem: str, tracks: Mapping[str, Any], outcome: Outcome) -> str:
    """Return the table of all tracks of a stem, with a box plot of the SDR of each one's frames."""
    frames = {track: result.scores[stem]["SDR"] for track, result in outcome.results.items() if stem in result.scores}
    frames = {track: sdr[~np.isnan(sdr)] for track, sdr in frames.items()}
    low, high = _range(np.concatenate(list(frames.values())))
    ticks = "".join(
        f'<span style="left:{100 * (tick - low) / (high - low):.2f}%">{minus(f"{tick:g}")}</span>'
        for tick in _ticks(low, high)
    )
    rows = []
    for track in sorted(frames, key=lambda track: _last_if_nan(median_over_frames(frames[track]))):
        cells = "".join(_cell(tracks[track][stem][column]) for column in COLUMNS)
        plot = f'<td class="frames">{_box(track, frames[track], low, high)}</td>'
        rows.append(f'<tr><th scope="row">{html.escape(track)}</th>{plot}{cells}</tr>')
    return f"""<section>
<h2>{html.escape(stem.capitalize())}, track by track</h2>
<p class="caption">Box: the middle half of the frames, with their median. Lines: the 5th to the 95th percentile.</p>
<div class="scores tracks" role="region" aria-label="Scores of {html.escape(stem)}" tabindex="0">
<table>
<thead><tr>{_headers(["Track"])}
<th scope="col" class="frames">SDR of the frames, dB<span class="ticks">{ticks}</span></th>
{_headers([*COLUMNS])}</tr></thead>
<tbody>
{"".join(rows)}
</tbody>
</table>
</div>
</section>"""


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis for what lies between the 2nd and the 98th percentile, and for 0."""
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [2, 98])
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2, 5, 10, ... between `low` and `high`, at most `_TICKS`."""
    step = next(s for e in range(9) for m in (1, 2, 5) if (high - low) / (s := m * 10**e) < _TICKS)
    return [float(step * k) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _box(track: str, sdr: np.ndarray, low: float, high: float) -> str:
    """Return a box plot as inline SVG on an axis from `low` to `high`, which cuts what lies outside."""
    if not sdr.size:
        return ""
    percentiles = np.percentile(sdr, [5, 25, 50, 75, 95])
    least, lower, middle, upper, most = 100 * np.clip((percentiles - low) / (high - low), 0, 1)
    zero = -100 * low / (high - low)
    said = html.escape(f"{track}: quartiles {', '.join(f'{p:.1f}' for p in percentiles[1:4])} dB")
    return (
        f'<svg class="box" viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label="{said}">'
        f'<line class="zero" x1="{zero:.2f}" x2="{zero:.2f}" y1="-4" y2="24"/>'
        f'<line x1="{least:.2f}" x2="{most:.2f}" y1="10" y2="10"/>'
        f'<rect x="{lower:.2f}" width="{upper - lower:.2f}" y="3" height="14"/>'
        f'<line class="median" x1="{middle:.2f}" x2="{middle:.2f}" y1="3" y2="17"/></svg>'
    )


def _excerpt(output: Path, track: str, worst: Worst) -> str:
    minutes, seconds = divmod(worst.frame, 60)
    heading = f"Worst of {track}: {worst.stem} from {minutes}:{seconds:02}, SDR {minus(f'{worst.sdr:.2f}')} dB"
    if (excerpt := read_excerpt(output, track, worst.stem)) is None:
        return section(heading, [f"<p>Its audio was not kept: {NOT_KEPT}.</p>"])
    parts = {"Mixture": excerpt.mixture, "Estimate": excerpt.estimate, "Reference": excerpt.reference}
    figures = [figure(Clip(heading, title, waveform), excerpt.sample_rate) for title, waveform in parts.items()]
    return section(heading, figures)


def _facts(results: Mapping[str, Any]) -> str:
    facts = {
        **results["config"],
        "separation": _seconds(results["separation_seconds"]),
        "scoring": _seconds(results["scoring_seconds"]),
        "excerpts": f"the {FRAMES} s of a stem of a track with the lowest median SDR",
        **results["versions"],
    }
    return "\n".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value if isinstance(value, str) else json.dumps(value))}</dd>"
        for key, value in facts.items()
    )


def _seconds(seconds: float | None) -> str:
    return "not done here" if seconds is None else f"{seconds:.1f} s"
