"""Songs to train on: named stems, read at random places as 16-bit samples. Nothing here imports JAX.

Four layouts are read: folders of MUSDB18-HQ or alike, ``ROOT/SPLIT/<track>/<stem>.wav`` with any names of stems; files
of MUSDB18, ``ROOT/SPLIT/<track>.stem.mp4``; recordings of one stem each, ``ROOT/SPLIT/<STEM>/*.wav``; and data sets
that `jaxmss data build` has prepared.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from jaxmss.data import prepared
from jaxmss.data.clips import Song, open_clip
from jaxmss.data.pools import made_up_tracks, recordings
from jaxmss.data.splits import refuse_test, validation_names
from jaxmss.data.stem_files import decode
from jaxmss.data.tracks import MIXTURE, STEM_FILE, Track, find_tracks, some
from jaxmss.errors import AudioError, InputError, suggest
from jaxmss.training.config import SUM, SYNTH, Data, Network, Part

Named = TypeVar("Named", Song, Track)


def stems_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return every stem that these parts may draw, once each."""
    choices = (choice for part in parts for choice in part.choices)
    return tuple(dict.fromkeys(stem for choice in choices for stem in choice.split(SUM)))


def summed_stems(parts: Sequence[Part]) -> dict[str, tuple[str, ...]]:
    """Return the stems that add up to each part in a whole track, by its name.

    Those are all that it is drawn from: of an accompaniment that is now the bass, now the drums, both.
    """
    return {part.name: stems_of([part]) for part in parts}


def training_songs(data: Data, model: Network) -> list[Song]:
    """Return the songs to train on, by name, with the stems that the parts draw.

    The validation tracks of MUSDB18 are left out where the data has no split of its own for them. Only headers are
    read, but .stem.mp4 files are decoded into the cache first.

    Raises:
      InputError: for data that is not there, or that this network cannot be trained on: stems that are missing, cut
        short, unlike one another, shorter than an example or of another rate or other channels than the network's.
    """
    refuse_test(data.split, data.valid)
    stems = stems_of(data.parts)
    if data.folders:
        songs = _single_songs(data, stems)
    elif prepared.is_prepared(root_of(data)):
        songs = _prepared_songs(data, stems)
    else:
        songs = _track_songs(data, stems)
    for song in songs:
        _check(song, round(data.seconds * model.sample_rate), model)
    return songs


def fingerprint(songs: Sequence[Song]) -> str:
    """Return what batches depend on, but for the sound itself: how many songs, and a sum over names and lengths."""
    told = [(song.name, [(stem, clip.samples) for stem, clip in sorted(song.clips.items())]) for song in songs]
    return f"{len(songs)} songs, {zlib.crc32(repr(told).encode()):08x}"


def validation_tracks(data: Data) -> list[Track]:
    """Return the tracks to validate on, by name; of a track without a mixture, that is the sum of its stems.

    Raises `InputError` where there are none.
    """
    refuse_test(data.split, data.valid)
    root = root_of(data)
    if data.folders:
        return made_up_tracks(Path(root, data.valid), data.folders)
    split = data.valid if has_split(root, data.valid) else data.split
    if prepared.is_prepared(root):
        prepared.require_whole(root, split)
    tracks = find_tracks(root, split)
    if split != data.valid:
        tracks = [track for track in tracks if track.name in validation_names()]
    if not tracks:
        raise InputError(
            f"{root!r} holds no split {data.valid!r}, and in {data.split!r} none of MUSDB18's validation tracks; "
            "add such a split, or train with --validation.every 0"
        )
    return [track if _has_mixture(track) else replace(track, mixed=False) for track in tracks]


def root_of(data: Data) -> str:
    """Return where the data lies. Raises `InputError` if it is not said."""
    root = data.root.removeprefix(SYNTH)
    if not root:
        named = f"--data.root {data.root} lacks its folder" if data.root else "It is not said what to train on"
        raise InputError(f"{named}; set --data.root to a folder, or to {SYNTH}DIR for a trial")
    return root


def has_split(root: str, split: str) -> bool:
    """Return whether there is such a folder, or such a split in a prepared data set."""
    return split in prepared.splits(root) if prepared.is_prepared(root) else Path(root, split).is_dir()


def _track_songs(data: Data, stems: Sequence[str]) -> list[Song]:
    """Return the songs of folders and of .stem.mp4 files."""
    root = root_of(data)
    tracks = _without_held_out(find_tracks(root, data.split), data)
    for track in tracks:
        if not track.inputs():
            raise AudioError(f"{str(track.path)!r} holds no .wav files; complete the track or remove its folder")
    packed = [track for track in tracks if track.path.name.endswith(STEM_FILE)]
    with ThreadPoolExecutor(data.threads) as pool:
        decoding = pool.map(lambda track: decode(track.path, stems), packed)
        decoded = dict(
            zip(packed, tqdm(decoding, "decoding", len(packed), disable=None if packed else True), strict=True)
        )
    return [_opened(track.name, decoded.get(track) or _files(track, stems)) for track in tracks]


def _prepared_songs(data: Data, stems: Sequence[str]) -> list[Song]:
    """Return the songs of a prepared data set."""
    prepared.require_whole(root_of(data), data.split)
    songs = _without_held_out(prepared.songs(root_of(data), data.split), data)
    for song in songs:
        if missing := [stem for stem in stems if stem not in song.clips]:
            raise AudioError(f"Track {song.name!r} lacks {', '.join(missing)}: it was built of {', '.join(song.clips)}")
    return [Song(song.name, {stem: song.clips[stem] for stem in stems}) for song in songs]


def _without_held_out(named: list[Named], data: Data) -> list[Named]:
    """Leave out MUSDB18's validation tracks where the data has no split of its own for them."""
    root = root_of(data)
    if has_split(root, data.valid):
        return named
    kept = [each for each in named if each.name not in validation_names()]
    if not kept:
        raise InputError(f"{root!r} holds but validation tracks of MUSDB18 in {data.split!r}; copy the others too")
    return kept


def _files(track: Track, stems: Sequence[str]) -> dict[str, Path]:
    """Return the WAV files of a track's folder."""
    files = {stem: track.path / f"{stem}.wav" for stem in stems}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        there = some([file.name for file in track.inputs() if file.is_file()], "no .wav files")
        raise AudioError(
            f"Track {track.name!r} lacks {', '.join(missing)}: {str(track.path)!r} holds {there}; complete it, leave "
            "the track out, or name the stems whose recordings have folders of their own by --data.folders"
        )
    return files


def _single_songs(data: Data, stems: Sequence[str]) -> list[Song]:
    """Return a song of one stem for each recording."""
    for stem in stems:
        if stem not in data.folders:
            raise InputError(f"The parts draw {stem!r}, which is not among the folders{suggest(stem, data.folders)}")
    files = recordings(Path(root_of(data), data.split), stems)
    return [_opened(f"{stem}/{path.stem}", {stem: path}) for stem in stems for path in files[stem]]


def _opened(name: str, files: Mapping[str, Path]) -> Song:
    return Song(name, {stem: open_clip(file) for stem, file in files.items()})


def _check(song: Song, samples: int, model: Network) -> None:
    """Raise `InputError` if a network cannot learn from examples of so many samples of this song."""
    first, length = next((stem, clip.samples) for stem, clip in song.clips.items())
    for stem, clip in song.clips.items():
        where = f"Track {song.name!r}: {stem}"
        if clip.rate != model.sample_rate:
            raise AudioError(f"{where} is at {clip.rate} Hz, the network at {model.sample_rate} Hz; resample the data")
        if clip.channels != model.channels:
            raise AudioError(f"{where} has {clip.channels} channels, the network {model.channels}; convert the data")
        if clip.samples != length:
            raise AudioError(f"{where} has {clip.samples} samples, {first} {length}; stems of a track must be alike")
        if clip.samples < samples:
            raise AudioError(
                f"{where} has {clip.samples} samples, an example {samples}; leave it out or shorten --data.seconds"
            )


def _has_mixture(track: Track) -> bool:
    return type(track) is not Track or track.path.name.endswith(STEM_FILE) or (track.path / f"{MIXTURE}.wav").is_file()
