"""What is evaluated: a model, or stems that another program made. Both give estimates of a track's stems.

Nothing here imports JAX, so that processes which score start fast: models are in `separation.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxmss.audio.reading import read
from jaxmss.data.tracks import ACCOMPANIMENT, STEMS, Track
from jaxmss.errors import InputError

SCORED = (*STEMS, ACCOMPANIMENT)

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
    """

    name: str
    identity: Mapping[str, object]
    estimate: Callable[[Track], Estimates]
    device: str | None = None


def folder_system(directory: Path) -> System:
    """Return the system whose estimates are ``<directory>/<track>/<stem>.wav``, made by any program.

    Of every track the stems are scored that the data has too. Raises `InputError` where there is no such directory.
    """
    if not directory.is_dir():
        raise InputError(f"There is no directory {str(directory)!r}; name the folder with a folder for each track")
    where = str(directory.resolve())
    return System(directory.resolve().name, {"estimates": where}, lambda track: _read_estimates(directory, track))


def _read_estimates(directory: Path, track: Track) -> Estimates:
    folder = directory / track.name
    if not folder.is_dir():
        raise InputError(f"There are no estimates of track {track.name!r}: {str(folder)!r} is no directory")
    files = {stem: folder / f"{stem}.wav" for stem in SCORED if (folder / f"{stem}.wav").is_file()}
    if not files:
        raise InputError(f"{str(folder)!r} holds none of {', '.join(f'{stem}.wav' for stem in SCORED)}")
    opened = {stem: read(file) for stem, file in files.items()}
    rates = {stem: rate for stem, (_, rate) in opened.items()}
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{stem} {rate} Hz" for stem, rate in rates.items())
        raise InputError(f"The estimates in {str(folder)!r} have different rates: {told}; resample them")
    return Estimates({stem: waveform for stem, (waveform, _) in opened.items()}, next(iter(rates.values())), None)
