"""Test tracks with their stems, read when they are asked for. Nothing here imports JAX.

Two layouts of MUSDB18 are read: the folders of MUSDB18-HQ, ``DIR/test/<track>/{mixture,drums,bass,other,vocals}.wav``,
and the files of the original, ``DIR/test/<track>.stem.mp4``, which hold the same five as audio streams.
Source: Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis, R. Bittner, "The MUSDB18 corpus for music separation"
(2017), https://doi.org/10.5281/zenodo.1117372.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float

from jaxmss.audio.containers import missing_bytes
from jaxmss.audio.reading import read
from jaxmss.errors import AudioError, InputError, suggest

STEMS = ("drums", "bass", "other", "vocals")
MIXTURE = "mixture"
ACCOMPANIMENT = "accompaniment"
ACCOMPANYING = tuple(stem for stem in STEMS if stem != "vocals")

STREAMS = (MIXTURE, *STEMS)  # of a .stem.mp4, in order
STEM_FILE = ".stem.mp4"

Waveform = Float[np.ndarray, "c t"]


@dataclass(frozen=True)
class Track:
    """A song with its stems on disk.

    Attributes:
      name: of the song.
      path: the folder of WAV files, or the .stem.mp4 file.
      mixed: whether the file's own mixture is the track's; if not, it is the sum of the stems.
    """

    name: str
    path: Path
    mixed: bool = True

    def read(self, stems: Iterable[str]) -> tuple[dict[str, Waveform], int]:
        """Return the stems asked for, float32 (c, t) of one length, and their rate in Hz.

        `stems` are of `STEMS`, of other WAV files that the folder holds, ``mixture`` and ``accompaniment``, which is
        drums + bass + other. Each file is read once. Raises `InputError` for an unknown stem, a missing or damaged
        file, or stems that do not fit together.
        """
        stems = tuple(stems)
        needed = tuple(dict.fromkeys(part for stem in stems for part in self._parts(stem)))
        parts, rate = self._read_parts(needed)
        return {stem: _sum([parts[part] for part in self._parts(stem)]) for stem in stems}, rate

    def read_sums(self, sums: Mapping[str, Sequence[str]]) -> tuple[dict[str, Waveform], int]:
        """Return, for each name, the sum of stems; otherwise as `read` does."""
        waveforms, rate = self.read(dict.fromkeys(stem for stems in sums.values() for stem in stems))
        return {name: _sum([waveforms[stem] for stem in stems]) for name, stems in sums.items()}, rate

    def inputs(self) -> list[Path]:
        """Return the files that the track is read from."""
        return [self.path] if self.path.is_file() else sorted(self.path.glob("[!.]*.wav"))

    def _parts(self, stem: str) -> tuple[str, ...]:
        """Return what is read and added up to a stem."""
        if stem == MIXTURE and not self.mixed:
            return self.stems()
        if (self.path / f"{stem}.wav").is_file():
            return (stem,)
        if stem == ACCOMPANIMENT:
            return ACCOMPANYING
        if stem not in STREAMS:
            raise InputError(f"Track {self.name!r} has no stem {stem!r}{suggest(stem, (*STREAMS, ACCOMPANIMENT))}")
        return (stem,)

    def stems(self) -> tuple[str, ...]:
        """Return the names of the stems that are stored, without the mixture."""
        if self.path.name.endswith(STEM_FILE):
            return STEMS
        return tuple(sorted(file.stem for file in self.path.glob("[!.]*.wav") if file.stem != MIXTURE))

    def _read_parts(self, parts: Sequence[str]) -> tuple[dict[str, Waveform], int]:
        if self.path.name.endswith(STEM_FILE):
            read_parts = {part: _read_stream(self.path, STREAMS.index(part)) for part in parts}
        else:
            self._check_files(parts)
            read_parts = {part: read(self.path / f"{part}.wav") for part in parts}
        kinds = {part: (rate, *waveform.shape) for part, (waveform, rate) in read_parts.items()}
        first = parts[0]
        for part, kind in kinds.items():
            if kind != kinds[first]:
                raise AudioError(
                    f"Track {self.name!r}: {part} has {_described(kind)}, {first} {_described(kinds[first])}; "
                    "the stems of a track must be alike"
                )
        return {part: waveform for part, (waveform, _) in read_parts.items()}, kinds[first][0]

    def _check_files(self, parts: Sequence[str]) -> None:
        missing = [f"{part}.wav" for part in parts if not (self.path / f"{part}.wav").is_file()]
        if missing:
            there = [file.name for file in self.inputs() if file.is_file()]
            raise AudioError(
                f"Track {self.name!r} lacks {', '.join(missing)}: {str(self.path)!r} holds "
                f"{some(there, 'no .wav files')}; complete it or leave the track out"
            )


def find_tracks(root: Path | str, split: str = "test") -> list[Track]:
    """Return the tracks of ``<root>/<split>``, folders of WAV files and .stem.mp4 files, by name.

    `root` may be a data set that `jaxmss data build` prepared, too.

    No audio is read yet. Raises `InputError` where there is no such folder, or no track in it.
    """
    from jaxmss.data import prepared  # which imports this module

    if prepared.is_prepared(root):
        return prepared.tracks(root, split)
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"There is no directory {str(root)!r}; name the folder that holds the splits of MUSDB18")
    folder = root / split
    if not split or not folder.is_dir():
        splits = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise InputError(f"{str(root)!r} holds no split {split!r}: it holds {some(splits, 'no folders')}")
    tracks = [track for path in sorted(folder.iterdir()) if (track := _track(path)) is not None]
    if not any(track.stems() for track in tracks):
        raise InputError(
            f"{str(folder)!r} holds no tracks: neither folders with {MIXTURE}.wav, {', '.join(STEMS)} nor *{STEM_FILE}"
        )
    for name, count in Counter(track.name for track in tracks).items():
        if count > 1:
            raise InputError(f"{str(folder)!r} holds {name!r} as a folder and as a {STEM_FILE}; remove one of them")
    return sorted(tracks, key=lambda track: track.name)


def demo_tracks() -> list[Track]:
    """Return the one song that the package `stempeg` ships; its mixture is the sum of its stems.

    Raises `InputError` where the recording is not there.
    """
    from jaxmss.demo.recording import ARTIST, TITLE, recording_path  # the package that it is in imports JAX

    return [Track(f"{ARTIST} - {TITLE}", recording_path(), mixed=False)]


def select(tracks: Sequence[Track], names: Iterable[str] | None = None, limit: int | None = None) -> list[Track]:
    """Return the tracks of these names, in their order (default: all), and of them the first `limit`.

    Raises `InputError` for a name that no track has and a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be at least 1")
    known = {track.name: track for track in tracks}
    chosen = list(known) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise InputError(f"There is no track {name!r}: {_nearest(name, known)}")
    return [known[name] for name in chosen][:limit]


def _track(path: Path) -> Track | None:
    """Return what a folder or file of a split is, or None if it is no track."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return Track(path.name, path)  # if it lacks files, whoever reads it is told
    return Track(path.name.removesuffix(STEM_FILE), path) if path.name.endswith(STEM_FILE) else None


def _read_stream(path: Path, index: int) -> tuple[Waveform, int]:
    """Decode one audio stream of a file."""
    blocks, rates = zip(*decode_stream(path, index), strict=True)
    return np.concatenate(blocks, axis=1), rates[0]


def decode_stream(path: Path, index: int) -> Iterator[tuple[Waveform, int]]:
    """Yield one audio stream of a file in blocks (c, t) with its rate. Needs no ffmpeg on the PATH: PyAV has its own.

    Raises `AudioError` for a damaged file, and for one that has no such stream or no sound in it.
    """
    rate = 0
    try:
        with path.open("rb") as file:
            if missing := missing_bytes(file):  # FFmpeg would stop early without a word
                raise AudioError(f"{str(path)!r} is cut short by {missing} bytes; copy or download it again")
        with av.open(str(path)) as container:
            streams = container.streams.audio
            if index >= len(streams):
                raise AudioError(
                    f"{str(path)!r} has {len(streams)} audio streams; a {STEM_FILE} has {len(STREAMS)}: "
                    f"{', '.join(STREAMS)}"
                )
            stream = streams[index]
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for part in to_float.resample(frame):
                    rate = stream.codec_context.sample_rate
                    yield part.to_ndarray(), rate
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{str(path)!r} cannot be decoded ({error.strerror}); copy or download it again") from error
    if not rate:
        raise AudioError(f"{str(path)!r} holds no sound in stream {index}; copy or download it again")


def _sum(waveforms: Sequence[Waveform]) -> Waveform:
    total = waveforms[0].copy() if len(waveforms) > 1 else waveforms[0]
    for waveform in waveforms[1:]:
        total += waveform
    return total


def _described(kind: tuple[int, ...]) -> str:
    rate, channels, samples = kind
    return f"{channels} channels of {samples} samples at {rate} Hz"


def some(names: Sequence[str], none: str) -> str:
    """Return the first few names for a message, or what is said if there are none."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else none


def _nearest(name: str, known: Mapping[str, Track]) -> str:
    hint = suggest(name, known)
    return hint.removeprefix("; ") if "did you mean" in hint else f"the data holds {some(list(known), 'none')}"
