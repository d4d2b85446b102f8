"""Compare two evaluations: paired differences over the tracks that both have scores of.

The interval is the percentile bootstrap's: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap" (1993),
chapter 13. It tells how large a difference is, but over few tracks it is too narrow: an interval of 95 % misses the
true mean in 15 of 100 normal samples of 6, in 9 of 10, in 6 of 50 (the bias-corrected one, too). What is significant
is therefore left to the randomisation test of the same mean, which flips signs (R. A. Fisher, "The Design of
Experiments", 1935, section 21): it keeps its level over any number of tracks, if differences are symmetric without an
effect, and never finds anything in fewer than 6.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxmss.errors import InputError
from jaxmss.evaluation.results import COLUMNS, shown
from jaxmss.evaluation.track_file import read_json

LEVEL = 0.05  # of significance; the interval covers the rest

_RESAMPLES = 9999
_ALL_SIGNS = 13  # up to so many tracks, all ways to flip signs are fewer than the resamples
_OF_ALL_STEMS = ("SIR", "SAR")  # measures that depend on the stems that are scored together


@dataclass(frozen=True)
class Difference:
    """One measure of one stem over the tracks that both systems have a score of, in dB.

    Attributes:
      tracks: their number.
      means: of the scores of the first and the second system.
      mean: of the differences, second minus first.
      interval: in which 95 % of the bootstrap's means lie; None for a single track.
      p: share of the ways to flip the signs of the differences that lead as far from 0.
    """

    tracks: int
    means: tuple[float, float]
    mean: float
    interval: tuple[float, float] | None
    p: float

    @property
    def significant(self) -> bool:
        """Whether systems without a difference would differ as much in less than 5 % of all cases."""
        return self.p < LEVEL


def difference(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> Difference:
    """Return the difference of two systems from their scores of the same `n` tracks, one or more."""
    rng = np.random.default_rng(0)  # the same scores give the same figures
    differences = second - first
    count, mean = len(differences), float(differences.mean())
    interval = None
    if count > 1:
        drawn = differences[rng.integers(count, size=(_RESAMPLES, count))].mean(axis=1)
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        interval = float(low), float(high)
    if count <= _ALL_SIGNS:
        signs = np.array(list(itertools.product((1, -1), repeat=count)))
    else:
        signs = np.concatenate([np.ones((1, count)), rng.choice((1, -1), size=(_RESAMPLES, count))])
    as_far = np.abs((signs * differences).mean(axis=1)) >= abs(mean) * (1 - 1e-9)  # sums in another order round
    return Difference(count, (float(first.mean()), float(second.mean())), mean, interval, float(as_far.mean()))


def compare(first: Path, second: Path) -> str:
    """Return a table of the differences between two evaluations, and what they do not share, as lines.

    Each is the output of an evaluation, or the results.json in it. A track's score is its median over frames. SIR and
    SAR are compared where the same stems were scored together. Raises `InputError` where there are no results, or none
    of the same track.
    """
    a, b = _read(first), _read(second)
    common = [track for track in a["tracks"] if track in b["tracks"]]
    if not common:
        raise InputError(
            f"{str(first)!r} and {str(second)!r} have no track in common: {_some(a['tracks'])}; {_some(b['tracks'])}"
        )
    lines = [f"A: {a['system']} in {first}", f"B: {b['system']} in {second}"]
    for name, own, other in (("A", a, b), ("B", b, a)):
        if only := [track for track in own["tracks"] if track not in other["tracks"]]:
            lines.append(f"Left out, for only {name} has scores of them: {', '.join(only)}")
    tracks = "the one track" if len(common) == 1 else f"the {len(common)} tracks"
    lines.append(f"dB, mean over {tracks} of both; p of the paired randomisation test")
    stems = [stem for stem in a["stems"] if stem in b["stems"]]
    if not stems:
        raise InputError(f"The two evaluations have no stem in common: {_some(a['stems'])}; {_some(b['stems'])}")
    for measure in COLUMNS:
        lines += _rows(measure, stems, [(a["tracks"][track], b["tracks"][track]) for track in common])
    if any(set(a["tracks"][track]) != set(b["tracks"][track]) for track in common):
        lines.append("\nSIR and SAR depend on the stems scored together, and are left out where these differ.")
    return "\n".join(lines)


def _rows(measure: str, stems: list[str], tracks: list[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Return the table of one measure; nothing if no track has it in both."""
    rows = []
    for stem in stems:
        pairs = [
            (a[stem][measure], b[stem][measure])
            for a, b in tracks
            if stem in a and stem in b and (measure not in _OF_ALL_STEMS or set(a) == set(b))
        ]
        scored = np.array([pair for pair in pairs if None not in pair], float)
        if len(scored):
            rows.append(_row(stem, difference(scored[:, 0], scored[:, 1])))
    head = f"\n{measure:15}{'tracks':>7}{'A':>8}{'B':>8}{'B - A':>8}{'95 % interval':>20}{'p':>8}"
    return [head, *rows] if rows else []


def _row(stem: str, found: Difference) -> str:
    means = "".join(f"{shown(mean):>8}" for mean in found.means)
    interval = shown(None) if found.interval is None else " to ".join(shown(end, "+") for end in found.interval)
    verdict = "  significant" if found.significant else ""
    return f"{stem:15}{found.tracks:7}{means}{shown(found.mean, '+'):>8}{interval:>20}{found.p:8.4f}{verdict}"


def _read(path: Path) -> dict[str, Any]:
    """Read results.json, or the one in a directory. Raises `InputError` if there is none, or something else."""
    file = path / "results.json" if path.is_dir() else path
    if not file.exists():
        raise InputError(f"There are no results in {str(path)!r}; name the output of an evaluation that has ended")
    results = read_json(file)
    try:
        for stems in results["tracks"].values():
            for scores in stems.values():
                if not all(scores[column] is None or isinstance(scores[column], float) for column in COLUMNS):
                    raise TypeError(f"scores {scores}")
        return {"system": results["system"], "tracks": results["tracks"], "stems": results["stems"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{str(file)!r} holds no results of an evaluation ({error!r}); name a results.json") from error


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
