"""Data sets that `jaxmss data build` has prepared: 16-bit samples in ArrayRecord files, read at random places.

The layout is the one of TensorFlow Datasets, ``ROOT/musdb18_hq/<version>``. A record holds a second of one stem; the
records of a stem follow each other, as the stems of a track and the tracks of a split do. ``metadata.json`` tells how
long each track is, so where a second lies is arithmetic, and reading a stem decodes no other.
Nothing here imports JAX or TensorFlow.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from jaxmss.data.clips import FULL_SCALE, Clip, Pcm, Song
from jaxmss.data.tracks import ACCOMPANIMENT, ACCOMPANYING, MIXTURE, Track, Waveform
from jaxmss.errors import AudioError, InputError, suggest

NAME = "musdb18_hq"
VERSION = "1.0.0"
REMOTE = "gs://"  # before the name of a bucket of Google Cloud Storage
PCM = "pcm"  # the feature that holds the samples

_METADATA = "metadata.json"
_THREADS = 16  # that look at files: over a network each takes a while to answer


@dataclass(frozen=True)
class Records:
    """The samples of a split, by the position of the record.

    Attributes:
      source: gives the bytes of a record, from any thread.
      parse: makes a `tf.train.Example` of them. (TFDS would decode all features, and take 1.4 times as long to read.)
      channels: of each sample.
    """

    source: Any
    parse: Callable[[bytes], Any]
    channels: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pcm:
        (stored,) = self.parse(self.source[index]).features.feature[PCM].bytes_list.value
        return np.frombuffer(stored, np.int16).reshape(-1, self.channels)


@dataclass(frozen=True)
class PreparedClip:
    """One stem of a track.

    Attributes:
      records: of the split.
      first: position of the first record.
      record_samples: length of every record but the last.
      rate: in Hz.
      channels: of each sample.
      samples: length.
      where: the data set and the stem, for errors.
    """

    records: Records
    first: int
    record_samples: int
    rate: int
    channels: int
    samples: int
    where: str

    def read(self, start: int, count: int) -> Pcm:
        """Return `count` samples from `start`, which must lie within; from any thread.

        Raises `AudioError` if a record is damaged.
        """
        pcm = np.empty((count, self.channels), np.int16)
        done = 0
        while done < count:
            index, skip = divmod(start + done, self.record_samples)
            part = self._record(index)[skip : skip + count - done]
            pcm[done : done + len(part)] = part
            done += len(part)
        return pcm

    def _record(self, index: int) -> Pcm:
        try:
            pcm = self.records[self.first + index]
        except Exception as error:  # the reader's own kinds of errors differ from version to version
            raise AudioError(
                f"{self.where} cannot be read at {index * self.record_samples / self.rate:.0f} s "
                f"({' '.join(str(error).split())[:200]}); build the data set again"
            ) from error
        if len(pcm) != min(self.record_samples, self.samples - index * self.record_samples):
            raise AudioError(f"{self.where} is damaged: a record holds {len(pcm)} samples; build the data set again")
        return pcm


@dataclass(frozen=True)
class PreparedTrack(Track):
    """A track of a prepared data set, which it opens when it is read, in whichever process that is.

    Attributes:
      root: folder or ``gs://`` address of the data set.
      split: that the track is in.
      stored: names of its waveforms.
    """

    root: str = ""
    split: str = "test"
    stored: tuple[str, ...] = ()

    def read(self, stems: Iterable[str]) -> tuple[dict[str, Waveform], int]:
        """Return the stems asked for, float32 (c, t) of one length, and their rate in Hz.

        Of a track that was stored without it, ``mixture`` is the sum of all stems and ``accompaniment`` drums + bass +
        other. Raises `InputError` for an unknown stem and a damaged data set.
        """
        clips = next(song for song in songs(self.root, self.split) if song.name == self.name).clips
        parts = {stem: self._parts_in(clips, stem) for stem in stems}
        needed = {part for added in parts.values() for part in added}
        waveforms = {part: np.float32(clips[part].read(0, clips[part].samples).T) / FULL_SCALE for part in needed}
        summed = {stem: np.add.reduce([waveforms[part] for part in added]) for stem, added in parts.items()}
        return summed, next(iter(clips.values())).rate

    def stems(self) -> tuple[str, ...]:
        """Return the names of the stems that are stored, without the mixture."""
        return tuple(stem for stem in self.stored if stem != MIXTURE)

    def inputs(self) -> list[Path]:
        """Return the files of the whole data set, if it is on this machine."""
        return sorted(Path(str(directory(self.root))).glob("*"))

    def _parts_in(self, clips: Mapping[str, Clip], stem: str) -> tuple[str, ...]:
        """Return what is added up to a stem."""
        if stem in clips:
            return (stem,)
        if stem == MIXTURE:
            return tuple(clips)
        added = ACCOMPANYING if stem == ACCOMPANIMENT else (stem,)
        if not all(part in clips for part in added):
            known = (*clips, MIXTURE, ACCOMPANIMENT)
            raise InputError(f"Track {self.name!r} of {self.root!r} has no stem {stem!r}{suggest(stem, known)}")
        return added


def directory(root: Path | str) -> epath.Path:
    """Return where the files of the data set lie, or would lie, under a local folder or a ``gs://`` address.

    Raises `InputError` where the package is missing that such an address needs.
    """
    if is_remote(root):
        if find_spec("gcsfs") is None:
            raise InputError(f"{str(root)!r} can be used with the package gcsfs only; run `pip install 'jaxmss[gcs]'`")
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of whatever it raises
    return epath.Path(root) / NAME / VERSION


def is_remote(root: Path | str) -> bool:
    """Return whether an address is one of Google Cloud Storage."""
    return str(root).startswith(REMOTE)


def is_prepared(root: Path | str) -> bool:
    """Return whether a local folder holds a prepared data set.

    A ``gs://`` address does: `InputError` is raised where it holds none, or cannot be reached.
    """
    with reaching(root):
        found = (directory(root) / _METADATA).exists() if is_remote(root) else directory(root).exists()
    if is_remote(root) and not found:
        raise InputError(f"{str(root)!r} holds no prepared data set; make one by `jaxmss data build DIR {root}`")
    return found


@contextmanager
def reaching(root: Path | str) -> Iterator[None]:
    """Turn what the client of a ``gs://`` address raises into an `InputError` of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of gcsfs, of Google's authentication, of the network
        if not is_remote(root):
            raise
        raise InputError(
            f"{str(root)!r} cannot be used ({' '.join(str(error).split())[:200] or type(error).__name__}); check the "
            "address, and that you may read it: `gcloud auth application-default login`"
        ) from error


def songs(root: Path | str, split: str) -> list[Song]:
    """Return the songs of a split, in the order they were stored; no samples are read yet.

    Raises `InputError` where there is no such split, or the data set is damaged.
    """
    layout, entries = _layout(root, split)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    with _understanding(root):
        source = tfds.builder_from_directory(directory(root)).as_data_source(split, deserialize_method=raw)
    records = Records(source, tf_example_pb2.Example.FromString, layout["channels"])
    counts = [len(entry["stems"]) * _records(entry, layout["record_samples"]) for entry in entries]
    if len(records) != sum(counts):
        raise InputError(
            f"{str(root)!r} holds {len(records)} records in {split!r} instead of {sum(counts)}; build it again"
        )
    firsts = accumulate(counts, initial=0)
    return [
        Song(entry["name"], dict(_clips(root, layout, entry, first, records)))
        for entry, first in zip(entries, firsts, strict=False)
    ]


def require_whole(root: Path | str, split: str) -> None:
    """Raise `InputError` that names a file of a split, if one is missing or cut short, as in a half-copied data set."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordReader

    _layout(root, split)
    with _understanding(root):
        stored = tfds.builder_from_directory(directory(root)).info.splits[split]
        files = list(zip(map(str, stored.filepaths), stored.shard_lengths, strict=True))

    def look(file: tuple[str, int]) -> None:
        path, expected = file
        try:
            reader = ArrayRecordReader(path)
            found = reader.num_records()
            reader.close()
        except Exception as error:  # the reader's own kinds of errors differ from version to version
            why = " ".join(str(error).partition(";")[0].split())[:200] or "it is damaged"
            raise InputError(f"{path!r} cannot be read ({why}); copy it, or build the data set, again") from error
        if found != expected:
            raise InputError(f"{path!r} holds {found} of {expected} records; copy it, or build the data set, again")

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(look, files))


@contextmanager
def _understanding(root: Path | str) -> Iterator[None]:
    """Turn whatever a damaged description of a data set makes TFDS raise into an `InputError`."""
    try:
        yield
    except Exception as error:
        raise InputError(
            f"{str(root)!r} holds a damaged data set ({' '.join(str(error).split())[:200]}); copy or build it again"
        ) from error


def tracks(root: Path | str, split: str) -> list[Track]:
    """Return the tracks of a split to evaluate on, by name. Raises `InputError` where there is no such split."""
    _, entries = _layout(root, split)
    found: list[Track] = [
        PreparedTrack(e["name"], Path(root), MIXTURE in e["stems"], str(root), split, tuple(e["stems"]))
        for e in entries
    ]
    return sorted(found, key=lambda track: track.name)


def splits(root: Path | str) -> list[str]:
    """Return the names of the splits. Raises `InputError` if the data set is damaged."""
    return list(_metadata(root)["tracks"])


def _clips(
    root: Path | str, layout: Mapping[str, Any], entry: Mapping[str, Any], first: int, records: Records
) -> Iterator[tuple[str, PreparedClip]]:
    count = _records(entry, layout["record_samples"])
    for position, stem in enumerate(entry["stems"]):
        where = f"{stem} of track {entry['name']!r} in {str(root)!r}"
        start = first + position * count
        size = layout["record_samples"], layout["rate"], layout["channels"], entry["samples"]
        yield stem, PreparedClip(records, start, *size, where)


def _records(entry: Mapping[str, Any], record_samples: int) -> int:
    return -(-entry["samples"] // record_samples)


def _layout(root: Path | str, split: str) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return what is true of all records, and the tracks of a split."""
    metadata = _metadata(root)
    if split not in metadata["tracks"]:
        raise InputError(f"{str(root)!r} holds no split {split!r}: it holds {', '.join(metadata['tracks'])}")
    return metadata, metadata["tracks"][split]


def _metadata(root: Path | str) -> Mapping[str, Any]:
    path = directory(root) / _METADATA
    try:
        with reaching(root):
            text = path.read_text()
        metadata = json.loads(text)
        _require_layout(metadata)
        return metadata
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); build the data set again") from error


def _require_layout(metadata: Any) -> None:
    """Raise `ValueError` unless this is of the form that `build.describe` gives."""
    try:
        entries = [entry for split in metadata["tracks"].values() for entry in split]
        counts = [metadata["rate"], metadata["channels"], metadata["record_samples"], *(e["samples"] for e in entries)]
        names = [name for entry in entries for name in (entry["name"], entry["stems"][0], *entry["stems"])]
    except (AttributeError, IndexError, KeyError, TypeError):
        counts, names = [], []
    whole = all(isinstance(count, int) and count > 0 for count in counts)
    if not counts or not whole or not all(isinstance(name, str) for name in names):
        raise ValueError("it does not tell what the data set holds")
