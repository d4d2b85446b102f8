"""What is evaluated: a model, or stems that another program made. Both give estimates of a track's stems.

Nothing here imports JAX, so that processes which score start fast: models are in `separation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmss.audio.reading import read
from jaxmss.data.tracks import ACCOMPANIMENT, MIXTURE, STEMS, Track
from jaxmss.errors import InputError

_SUMMED = frozenset(STEMS) - {"vocals"}  # to the accompaniment

Waveforms = Mapping[str, Float[np.ndarray, "c t"]]


class Estimates(NamedTuple):
    """Estimated stems (c, t) of one track, their rate in Hz, and the seconds that separation took, if it took place."""

    stems: Waveforms
    sample_rate: int
    separation: float | None


@dataclass(frozen=True)
class System:
    """A separator to evaluate.

    Attributes:
      name: under which it is reported.
      identity: what its estimates depend on, for a run to know its own earlier results.
      estimate: from a track to its estimated stems; raises `InputError` where there are none.
      device: that it separates on, if it does.
      unscored: stems that it makes and no track has.
      files: that the estimates of a track are read from, if they are.
      sums: of the data's stems, that estimates are scored against: those of estimates that are no stem of that name.
    """

    name: str
    identity: Mapping[str, object]
    estimate: Callable[[Track], Estimates]
    device: str | None = None
    unscored: Sequence[str] = ()
    files: Callable[[Track], Iterable[Path]] = lambda track: ()
    sums: Mapping[str, Sequence[str]] = field(default_factory=dict)


def stems_of(tracks: Iterable[Track]) -> tuple[str, ...]:
    """Return the stems that any of the tracks has, the accompaniment among them where it is the sum of others."""
    found = dict.fromkeys(stem for track in tracks for stem in track.stems())
    if set(found) >= _SUMMED:
        found[ACCOMPANIMENT] = None
    return tuple(found)


def folder_system(directory: Path, tracks: Sequence[Track]) -> System:
    """Return the system whose estimates are ``<directory>/<track>/<stem>.wav``, made by any program.

    Of the stems that any of the `tracks` has there, those are scored that the data has, too. Raises `InputError` where
    there is no such directory, and no such stem in it.
    """
    if not directory.is_dir():
        raise InputError(f"There is no directory {str(directory)!r}; name the folder with a folder for each track")
    made = {file.stem for track in tracks for file in (directory / track.name).glob("*.wav")} - {MIXTURE}
    known = stems_of(tracks)
    scored = [stem for stem in known if stem in made]
    if not scored:
        there = f"but {', '.join(sorted(made))}" if made else "and no <track>/<stem>.wav of these tracks"
        raise InputError(f"{str(directory)!r} holds no estimates of {', '.join(known)}, {there}; name them so")
    where = str(directory.resolve())
    return System(
        directory.resolve().name,
        {"estimates": where, "stems": scored},
        lambda track: _read_estimates(directory, track, scored),
        unscored=sorted(made - set(scored)),
        files=lambda track: (directory / track.name).glob("*.wav"),
    )


def _read_estimates(directory: Path, track: Track, stems: Sequence[str]) -> Estimates:
    folder = directory / track.name
    if not folder.is_dir():
        raise InputError(f"There are no estimates of track {track.name!r}: {str(folder)!r} is no directory")
    missing = [f"{stem}.wav" for stem in stems if not (folder / f"{stem}.wav").is_file()]
    if missing:
        raise InputError(f"{str(folder)!r} lacks {', '.join(missing)}, which other tracks have; complete it")
    opened = {stem: read(folder / f"{stem}.wav") for stem in stems}
    rates = {stem: rate for stem, (_, rate) in opened.items()}
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{stem} {rate} Hz" for stem, rate in rates.items())
        raise InputError(f"The estimates in {str(folder)!r} have different rates: {told}; resample them")
    return Estimates({stem: waveform for stem, (waveform, _) in opened.items()}, next(iter(rates.values())), None)
