"""Recordings of one stem each, in a folder for each stem: ``ROOT/SPLIT/<STEM>/*.wav``. Nothing here imports JAX.

So lie the sources of which no song is known in parts: a folder of what shall be found, and one of what it is found in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jaxmss.audio.reading import read
from jaxmss.data.tracks import MIXTURE, Track, Waveform
from jaxmss.errors import AudioError, InputError, suggest


@dataclass(frozen=True)
class MadeUpTrack(Track):
    """Recordings that were not made together, mixed as they are and as long as the shortest of them.

    Attributes:
      files: the recording of each stem, by its name.
    """

    files: Mapping[str, Path] = field(default_factory=dict)

    def read(self, stems: Iterable[str]) -> tuple[dict[str, Waveform], int]:
        """Return the stems asked for, float32 (c, t) of one length, and their rate in Hz; ``mixture`` is the sum.

        Raises `InputError` for an unknown stem, a missing or damaged file, or stems of several rates or channels.
        """
        stems = tuple(stems)
        for stem in stems:
            if stem not in (MIXTURE, *self.files):
                raise InputError(f"There is no folder for the stem {stem!r}{suggest(stem, self.files)}")
        recordings = {stem: read(file) for stem, file in self.files.items()}
        kinds = {stem: (len(waveform), rate) for stem, (waveform, rate) in recordings.items()}
        if len(set(kinds.values())) > 1:
            found = ", ".join(f"{stem} {channels} at {rate} Hz" for stem, (channels, rate) in kinds.items())
            raise AudioError(f"Track {self.name!r}: channels and rates differ ({found}); the stems must be alike")
        samples = min(waveform.shape[-1] for waveform, _ in recordings.values())
        cut = {stem: waveform[:, :samples] for stem, (waveform, _) in recordings.items()}
        cut[MIXTURE] = np.add.reduce(list(cut.values()))
        return {stem: cut[stem] for stem in stems}, next(iter(recordings.values()))[1]

    def inputs(self) -> list[Path]:
        """Return the recordings."""
        return list(self.files.values())


def recordings(folder: Path, stems: Sequence[str]) -> dict[str, list[Path]]:
    """Return the WAV files of ``<folder>/<stem>`` by stem, sorted by name. Raises `InputError` where there are none."""
    files = {}
    for stem in stems:
        if not (folder / stem).is_dir():
            raise InputError(f"There is no directory {str(folder / stem)!r}; put the recordings of {stem!r} there")
        files[stem] = sorted(path for path in (folder / stem).glob("*.wav") if not path.name.startswith("."))
        if not files[stem]:
            raise InputError(f"{str(folder / stem)!r} holds no .wav files; put the recordings of {stem!r} there")
    return files


def made_up_tracks(folder: Path, stems: Sequence[str]) -> list[Track]:
    """Return tracks of the first recordings of all stems, of the second ones, and so on while every stem has one."""
    files = recordings(folder, stems)
    return [
        MadeUpTrack(chosen[0].stem, folder, mixed=False, files=dict(zip(files, chosen, strict=True)))
        for chosen in zip(*files.values(), strict=False)
    ]
