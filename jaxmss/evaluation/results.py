"""The figures of a run: results.json, results.csv, and the table on the terminal."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.evaluation.aggregation import aggregate, median_over_frames
from jaxmss.evaluation.published import TEST_TRACKS, Figure, figure
from jaxmss.evaluation.run import Outcome
from jaxmss.evaluation.scores import MEASURES
from jaxmss.evaluation.track_file import TrackResult, write_json

WHOLE = {
    "SDR": "track SDR",
    "SI-SDR": "SI-SDR",
}  # measures over the whole track, and what they are called beside others
COLUMNS = (*MEASURES, *WHOLE.values())


def summarise(name: str, outcome: Outcome, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what results.json holds, for JSON: figures that do not exist are None.

    ``stems`` has median, mean, spread and number of tracks for each stem and measure, the published figure of its SDR
    and the difference; ``tracks`` has each track's medians over frames.
    """
    results = outcome.results
    tables = {track: _with_whole(result) for track, result in results.items()}
    summaries = aggregate(tables.values()) if tables else {}
    separated = [(r.seconds, r.separation) for r in results.values() if r.separation is not None]
    audio, taken = (sum(column) for column in zip(*separated, strict=True)) if separated else (None, None)
    return _finite(
        {
            "system": name,
            "stems": {
                stem: {
                    "measures": {measure: asdict(summary) for measure, summary in measures.items()},
                    "published": _published(figure(name, stem), measures["SDR"].median),
                }
                for stem, measures in summaries.items()
            },
            "tracks": {
                track: {
                    stem: {m: median_over_frames(v) for m, v in measures.items()} for stem, measures in table.items()
                }
                for track, table in tables.items()
            },
            "excluded": outcome.excluded,
            "failed": outcome.failed,
            "fitted": {track: ", ".join(result.fitted) for track, result in results.items() if result.fitted},
            "separated_seconds": audio,
            "separation_seconds": taken,
            "scoring_seconds": sum((result.scoring for result in results.values()), 0.0),
            "times_real_time": audio / taken if audio is not None and taken else None,
            "config": config,
            "versions": versions(),
        }
    )


def write_results(output: Path, results: Mapping[str, Any]) -> None:
    """Write results.json and results.csv, one row for each track and stem. Raises `AudioError` if that fails."""
    write_json(output / "results.json", results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["track", "stem", *COLUMNS])
    for track, stems in results["tracks"].items():
        for stem, scores in stems.items():
            writer.writerow([track, stem, *("" if scores[c] is None else f"{scores[c]:.5f}" for c in COLUMNS)])
    path = output / "results.csv"
    with written_aside([path]) as [file], reporting(path):
        file.write(text.getvalue().encode(errors="backslashreplace"))


def table(results: Mapping[str, Any]) -> str:
    """Return the medians of all stems, and the published figures beside them, as lines for the terminal."""
    count = len(results["tracks"])
    tracks = "1 track" if count == 1 else f"{count} tracks"
    counts = [tracks, *(f"{len(results[kind])} {kind}" for kind in ("excluded", "failed") if results[kind])]
    lines = [f"{results['system']}: {', '.join(counts)}; dB, median over frames of 1 s, then over tracks"]
    head = f"{'':15}" + "".join(f"{measure:>8}" for measure in MEASURES)
    lines.append(f"{head}   {'published SDR':26}{'difference':>10}")
    for stem, row in results["stems"].items():
        line = f"{stem:15}" + "".join(f"{shown(row['measures'][m]['median']):>8}" for m in MEASURES)
        if (told := row["published"]) is not None:
            line += f"   {shown(told['SDR']):>5} {told['system']:20}{shown(told['difference'], '+'):>10}"
        lines.append(line)
    if count != TEST_TRACKS:
        lines.append(
            f"The published figures are medians over the {TEST_TRACKS} test tracks of MUSDB18, not over these."
        )
    for kind in ("excluded", "failed", "fitted"):
        lines += [f"{kind}: {track}: {reason}" for track, reason in results[kind].items()]
    if results["times_real_time"] is not None:
        lines.append(f"Separated at {results['times_real_time']:.3g} x real time")
    return "\n".join(lines)


def shown(value: float | None, sign: str = "") -> str:
    """Return a figure in dB as it is shown: two decimals, a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{round(value, 2) + 0.0:{sign}.2f}"  # -0.00 becomes 0.00


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that scores depend on."""
    packages = ("jaxmss", "jax", "jaxlib", "flax", "numpy", "scipy", "museval")
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in packages}


def _with_whole(result: TrackResult) -> dict[str, dict[str, Any]]:
    """Return the frames' scores of each stem, and those of the whole track as if it were one frame."""
    whole = {stem: {WHOLE[m]: np.array([v]) for m, v in measures.items()} for stem, measures in result.whole.items()}
    return {stem: {**scores, **whole[stem]} for stem, scores in result.scores.items()}


def _published(known: Figure | None, median: float) -> dict[str, Any] | None:
    return None if known is None else {"system": known.system, "SDR": known.sdr, "difference": median - known.sdr}


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
