"""Prepare a data set: the samples of many small files in a few large ones, for fast random access, also over a network.

What is built is a data set of TensorFlow Datasets in ArrayRecord files, `prepared` tells its layout; TensorFlow is not
needed for it.
"""

from __future__ import annotations

import errno
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from jaxmss.audio.aside import reporting
from jaxmss.data import prepared
from jaxmss.data.clips import Clip, Song, open_clip
from jaxmss.data.splits import SPLITS, validation_names
from jaxmss.data.stem_files import decode
from jaxmss.data.tracks import MIXTURE, STEM_FILE, STREAMS, Track, find_tracks
from jaxmss.errors import InputError
from jaxmss.locking import one_process_at_a_time

RECORD_SECONDS = 1  # a random excerpt of 3 s is cut out of 4 s read; smaller records would cost more than they spare
SHARD_BYTES = 1 << 28  # a shard is in memory while it is written

Recordings = Sequence[tuple[str, str, Clip]]  # name of the track, of the stem, its samples
Progress = Callable[[int], object]  # told how many more samples are written
Report = Callable[[float, float], object]  # told how many seconds are written, and of how many


class Musdb18Hq(tfds.core.ShardBasedBuilder):
    """Writes the data set, shard by shard.

    A `GeneratorBasedBuilder` sorts its records first, beyond 1 GB on disk, and for that it needs TensorFlow.
    """

    VERSION = tfds.core.Version(prepared.VERSION)
    code_path = None  # there are no checksums of downloads beside this file, which it would look for

    def __init__(self, splits: Mapping[str, Sequence[Song]], progress: Progress, data_dir: str):
        self._songs, self._progress = splits, progress
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        layout = describe(self._songs)
        pcm = tfds.features.Tensor(
            shape=(None, layout["channels"]), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
        )
        features = {
            prepared.PCM: pcm,
            "track": tfds.features.Text(),
            "stem": tfds.features.Text(),
            "start": tfds.features.Scalar(np.int64),  # sample of the stem that the record starts at
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Songs and their stems, 16-bit samples; a record is a second of one stem.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(layout),
        )

    def _shard_iterators_per_split(self, dl_manager: object) -> dict[str, list[Callable[[], Iterator]]]:
        size, songs = describe(self._songs)["record_samples"], self._songs[self._current]
        return {self._current: [partial(_examples, shard, size, self._progress) for shard in _shards(songs)]}

    def _download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        """Prepare one split after another, for a pipeline of several does the earlier splits again for each."""
        done: list[tfds.core.SplitInfo] = []
        for split in self._songs:
            self._current = split
            super()._download_and_prepare(*arguments, **options)
            done.extend(self.info.splits.values())
            self.info.set_splits(tfds.core.SplitDict(done))
        for path in self.data_path.glob("*.shard_infos.json"):  # what the workers told the pipeline
            path.unlink()

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _Writer(self.info.file_format)


class _Writer(tfds.core.ExampleWriter):
    """Writes records as they are: compression saves a tenth of the space and makes reading take three times as long."""

    def write(self, path: epath.PathLike, examples: Any) -> None:
        if not prepared.is_remote(str(path)):
            return self._write(str(path), examples)
        with TemporaryDirectory() as local:  # the writer knows files of this machine alone
            self._write(str(shard := epath.Path(local) / "shard"), examples)
            shard.copy(path)

    def _write(self, path: str, examples: Any) -> None:
        writer = array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
        for _, example in examples:
            with _as_os_error():
                writer.write(example)
        with _as_os_error():
            writer.close()


def build(
    source: Path, destination: Path | str, beam: Sequence[str] | None = None, report: Report = lambda done, total: None
) -> epath.Path:
    """Prepare the splits of a folder as a data set, check that it reads back equal, and return where it lies.

    Args:
      source: folder of MUSDB18-HQ, MUSDB18 or alike, with folders ``train``, ``valid`` and ``test``; without ``valid``,
        the official validation tracks are taken out of ``train``.
      destination: local folder or ``gs://`` address, which must not hold a prepared data set yet.
      beam: options of an Apache Beam pipeline that does the work, such as ``--runner=DirectRunner``; None for none.
      report: told how many seconds of stems are written, and how many there are; Apache Beam reports in its own way.

    Raises `InputError` for data that is missing, damaged or unlike, and a destination that cannot be written. Nothing
    half-written is left under the data set's name; what an earlier, killed build left is removed. One that another
    process is building in the same folder is waited for; of buckets that is not known.
    """
    if not str(destination):
        raise InputError("The destination is empty; name a folder or a gs:// address")
    _require_free(destination)
    songs = source_splits(source)
    describe(songs)
    with ExitStack() as held:
        if not prepared.is_remote(destination):
            with reporting(Path(destination)):
                held.enter_context(one_process_at_a_time(Path(prepared.directory(destination)).parent / ".lock"))
            _require_free(destination)  # another process may have built it while this one waited
        _build(songs, destination, beam, report)
    return prepared.directory(destination)


def _require_free(destination: Path | str) -> None:
    with prepared.reaching(destination):
        taken = prepared.directory(destination).exists()
    if taken:
        raise InputError(f"{str(destination)!r} holds a prepared data set; remove it or choose another destination")


def _build(
    songs: Mapping[str, Sequence[Song]], destination: Path | str, beam: Sequence[str] | None, report: Report
) -> None:
    with prepared.reaching(destination), reporting(epath.Path(destination)):
        for left in prepared.directory(destination).parent.glob(f"incomplete.*_{prepared.VERSION}"):
            left.rmtree()
        builder = Musdb18Hq(songs, _counter(songs, report) if beam is None else _nothing, str(destination))
        with TemporaryDirectory() as downloads, redirect_stdout(io.StringIO()):  # it has none, but announces them
            builder.download_and_prepare(download_dir=downloads, download_config=_download_config(beam))
    try:
        verify(songs, destination)
    except BaseException:  # Ctrl-C too: what is there under this name is known to read back
        with prepared.reaching(destination):
            prepared.directory(destination).rmtree()
        raise


def source_splits(source: Path) -> dict[str, list[Song]]:
    """Return the songs of each split, with all stems they have; .stem.mp4 files are decoded into the cache first.

    Raises `InputError` where there are none, or one is damaged.
    """
    if not source.is_dir():
        raise InputError(f"There is no directory {str(source)!r}; name the folder that holds the splits")
    tracks = {split: find_tracks(source, split) for split in SPLITS if (source / split).is_dir()}
    if not tracks:
        raise InputError(f"{str(source)!r} holds none of the folders {', '.join(SPLITS)}; name the folder of the data")
    if "train" in tracks and "valid" not in tracks:
        held_out = [track for track in tracks["train"] if track.name in validation_names()]
        train = [track for track in tracks["train"] if track not in held_out]
        tracks = {**tracks, "train": train, "valid": held_out}
    return {split: [_song(track) for track in tracks[split]] for split in SPLITS if tracks.get(split)}


def describe(songs: Mapping[str, Sequence[Song]]) -> dict[str, Any]:
    """Return what is stored beside the records. Raises `InputError` for songs that one data set cannot hold."""
    kinds = Counter(_kind(clip)[:2] for split in songs.values() for song in split for clip in song.clips.values())
    rate, channels = kinds.most_common(1)[0][0]
    first = next(iter(songs.values()))[0]
    stems = first.clips.keys() - {MIXTURE}
    for split in songs.values():
        for song in split:
            _require_text(song)
            if missing := sorted((stems ^ song.clips.keys()) - {MIXTURE}):
                raise InputError(
                    f"Tracks {first.name!r} and {song.name!r} differ in their stems: only one of them has "
                    f"{', '.join(missing)}; complete the other (recordings in folders by stem are not prepared: train "
                    "on them as they are)"
                )
            length = next(iter(song.clips.values())).samples
            for stem, clip in song.clips.items():
                if _kind(clip) != (rate, channels, length) or not length:
                    raise InputError(
                        f"Track {song.name!r}: {stem} has {clip.channels} channels of {clip.samples} samples at "
                        f"{clip.rate} Hz, but {channels} channels of {length or 'some'} samples at {rate} Hz are "
                        "expected; the stems of a track must be alike, and all tracks of one rate and channels"
                    )
    tracks = {
        split: [
            {"name": song.name, "samples": next(iter(song.clips.values())).samples, "stems": list(song.clips)}
            for song in found
        ]
        for split, found in songs.items()
    }
    return {"rate": rate, "channels": channels, "record_samples": rate * RECORD_SECONDS, "tracks": tracks}


def verify(songs: Mapping[str, Sequence[Song]], destination: Path | str) -> None:
    """Compare every stored sample with its source; raise `InputError` if one differs."""
    for split, originals in songs.items():
        for original, stored in zip(originals, prepared.songs(destination, split), strict=True):
            for stem, clip in original.clips.items():
                for start in range(0, clip.samples, block := 60 * clip.rate):
                    excerpt = start, min(block, clip.samples - start)
                    if not np.array_equal(clip.read(*excerpt), stored.clips[stem].read(*excerpt)):
                        raise InputError(
                            f"{stem} of track {original.name!r} does not read back as it was, and the data set was "
                            "removed; check the disk, and that the source does not change, and build again"
                        )


def _song(track: Track) -> Song:
    if track.path.name.endswith(STEM_FILE):
        files = decode(track.path, STREAMS)
    else:
        files = {path.stem: path for path in sorted(track.path.glob("[!.]*.wav"))}
        if not files:
            raise InputError(f"{str(track.path)!r} holds no .wav files; complete the track or remove its folder")
    return Song(track.name, {stem: open_clip(path) for stem, path in files.items()})


def _require_text(song: Song) -> None:
    for name in (song.name, *song.clips):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"The name {name!r} of a track or stem is not UTF-8; rename its folder or file") from None


def _kind(clip: Clip) -> tuple[int, int, int]:
    return clip.rate, clip.channels, clip.samples


def _shards(songs: Sequence[Song]) -> Sequence[Recordings]:
    """Cut the stems of all songs, in their order, into shards of a size at which the next one begins."""
    shards: list[list[tuple[str, str, Clip]]] = []
    room = 0
    for song in songs:
        for stem, clip in song.clips.items():
            if room <= 0:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append((song.name, stem, clip))
            room -= clip.samples * clip.channels * np.int16().itemsize
    return shards


def _examples(recordings: Recordings, record_samples: int, progress: Progress) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a shard with a name for each."""
    for track, stem, clip in recordings:
        for start in range(0, clip.samples, record_samples):
            pcm = clip.read(start, min(record_samples, clip.samples - start))
            yield f"{track}/{stem}/{start}", {prepared.PCM: pcm, "track": track, "stem": stem, "start": start}
            progress(len(pcm))


def _counter(songs: Mapping[str, Sequence[Song]], report: Report) -> Progress:
    clips = [clip for split in songs.values() for song in split for clip in song.clips.values()]
    rate, total = clips[0].rate, sum(clip.samples for clip in clips)
    done = 0

    def progress(samples: int) -> None:
        nonlocal done
        done += samples
        report(done / rate, total / rate)

    return progress


def _nothing(samples: int) -> None:
    """Report no progress: a function that can be sent to another machine."""


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn what the writer raises for a full disk into what everything else raises for it."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).partition(";")[0]) from error


def _download_config(beam: Sequence[str] | None) -> tfds.download.DownloadConfig:
    if beam is None:
        return tfds.download.DownloadConfig()
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    except ImportError as error:
        raise InputError("--beam needs Apache Beam; run `pip install jaxmss[beam]`") from error
    options = PipelineOptions(list(beam))
    runner = options.view_as(StandardOptions).runner or "DirectRunner"
    return tfds.download.DownloadConfig(beam_options=options, beam_runner=runner)
