"""Scoring one track, in a process of its own. Nothing here imports JAX."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxmss.audio.aside import reporting
from jaxmss.data.tracks import ACCOMPANIMENT, MIXTURE, Track
from jaxmss.errors import AudioError, InputError
from jaxmss.evaluation.excerpts import excerpt_paths, find_worst, write_excerpt
from jaxmss.evaluation.scores import (
    SilentEstimateError,
    SilentStemError,
    check_stems,
    fit_length,
    score_track,
    si_sdr,
    track_sdr,
)
from jaxmss.evaluation.systems import Estimates, stems_of
from jaxmss.evaluation.track_file import TrackResult, read_json, read_track, write_json, write_track

_REST = {"vocals": ACCOMPANIMENT, ACCOMPANIMENT: "vocals"}  # what is left of the mixture without a stem


@dataclass(frozen=True)
class Job:
    """How tracks are scored, and where the results go.

    Attributes:
      output: the run's directory.
      engine: `jaxmss` or `museval`.
      fit_length: whether estimates of another length are cut or padded, as museval does, or refused.
      data: where the tracks are: results of others are not mixed in.
    """

    output: Path
    engine: str = "jaxmss"
    fit_length: bool = False
    data: str = ""


def score(
    job: Job, track: Track, estimates: Estimates, inputs: str = "", sums: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Score the estimates of a track and write its files under the output: its scores last, so that they mean `done`.

    `inputs` tells the files that all came from, for a later run to know them again; `sums` the stems that add up to
    what an estimate is of, where it is no stem itself. Raises `InputError` for what cannot be scored, silent estimates
    among them. A track with a silent reference is noted as excluded, as BSS Eval cannot score it.
    """
    start = time.perf_counter()
    stems = dict(estimates.stems)
    rest = _rest(track, [*stems])
    references, rate = track.read_sums({stem: (sums or {}).get(stem, (stem,)) for stem in (*stems, *rest, MIXTURE)})
    mixture = references.pop(MIXTURE)
    if estimates.sample_rate != rate:
        raise InputError(
            f"The estimates of track {track.name!r} have {estimates.sample_rate} Hz, the track {rate} Hz; resample them"
        )
    fitted = []
    if job.fit_length:
        fitted = [_fitted(stem, waveform.shape[1] - mixture.shape[1]) for stem, waveform in stems.items()]
        stems = {stem: fit_length(waveform, mixture.shape[1]) for stem, waveform in stems.items()}
    try:
        check_stems({stem: references[stem] for stem in stems}, stems, rate)
        stems |= {stem: mixture - stems[only] for stem, only in rest.items()}
        scores = score_track(references, stems, rate, engine=job.engine)
    except SilentEstimateError:
        raise
    except SilentStemError as error:
        write_json(prepared(excluded_path(job.output, track.name)), Excluded(str(error), inputs)._asdict())
        return
    whole = {s: {"SDR": track_sdr(references[s], stems[s]), "SI-SDR": si_sdr(references[s], stems[s])} for s in stems}
    for worst in find_worst(scores):
        with contextlib.suppress(AudioError):  # a disk that is too full for a few seconds of audio has room for scores
            write_excerpt(job.output, track.name, worst, mixture, stems, references, rate)
    times = estimates.separation, time.perf_counter() - start
    told = tuple(line for line in fitted if line)
    result = TrackResult(scores, whole, mixture.shape[1] / rate, *times, told, inputs)
    write_track(prepared(scores_path(job.output, track.name)), result)


def _fitted(stem: str, excess: int) -> str:
    """Return a line that says how an estimate's length was changed, or nothing where it was right."""
    if not excess:
        return ""
    return f"{stem} was {-excess} samples short, padded" if excess < 0 else f"{stem} was {excess} samples long, cut"


def _rest(track: Track, estimated: Sequence[str]) -> dict[str, str]:
    """Return what is scored as the mixture without the only stem that is estimated, if the track has it, and that stem.

    BSS Eval needs more than one stem for SIR and SAR; SDR and ISR of a stem do not depend on the others.
    """
    rest = {_REST[stem]: stem for stem in estimated if stem in _REST}
    return rest if len(estimated) == 1 and rest.keys() <= set(stems_of([track])) else {}


class Excluded(NamedTuple):
    """Why BSS Eval leaves a track out, and the files that tell so, as `TrackResult.inputs`."""

    reason: str
    inputs: str


def stored(output: Path, track: str) -> TrackResult | Excluded | None:
    """Return what an earlier run made of a track, or None."""
    if (path := scores_path(output, track)).exists():
        return read_track(path)
    if (path := excluded_path(output, track)).exists():
        content = read_json(path)
        return Excluded(str(content["reason"]), str(content.get("inputs", "")))
    return None


def drop(output: Path, track: str) -> None:
    """Remove what an earlier run made of a track."""
    for path in (scores_path(output, track), excluded_path(output, track), *excerpt_paths(output, track)):
        path.unlink(missing_ok=True)


def scores_path(output: Path, track: str) -> Path:
    """Return where the scores of a track stand."""
    return output / "tracks" / f"{track}.json"


def excluded_path(output: Path, track: str) -> Path:
    """Return where it stands why a track was excluded."""
    return output / "excluded" / f"{track}.json"


def prepared(path: Path) -> Path:
    """Make the folder of a file. Raises `AudioError` if it cannot be made."""
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path
