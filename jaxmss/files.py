"""Separate audio files: read, resample, separate and write in blocks, so that hours need the memory of seconds."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from jaxmss.audio.channels import to_channels
from jaxmss.audio.finding import find_audio_files
from jaxmss.audio.reading import AudioReader, open_audio
from jaxmss.audio.resampling import Resampler
from jaxmss.audio.stems import Clipping, StemWriter, open_stems
from jaxmss.audio.writing import EXTENSIONS, AudioFormat
from jaxmss.chunking import Block, Stems
from jaxmss.errors import AudioError, InputError, suggest
from jaxmss.levels import measure
from jaxmss.options import Options
from jaxmss.prefetch import prefetch
from jaxmss.refinement import distribute_residual
from jaxmss.separator import Model, needs_level, separate_blocks


@dataclass(frozen=True)
class Report:
    """What came of one input file.

    Attributes:
      path: the input.
      error: why it could not be separated, or None.
      kept: stems that existed and were kept.
      written: stems that were written.
      seconds: of audio separated.
      elapsed: seconds it took.
      clipped: by stem, samples that lay beyond full scale.
      gain: that all stems written were multiplied with against clipping.
    """

    path: Path
    error: str | None = None
    kept: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    seconds: float = 0.0
    elapsed: float = 0.0
    clipped: Mapping[str, int] | None = None
    gain: float = 1.0


@dataclass(frozen=True)
class Output:
    """Where and how stems are written.

    Attributes:
      directory: holds a folder for each track.
      format: of the files, an `AudioFormat`.
      clipping: what becomes of samples beyond full scale, a `Clipping`.
      overwrite: whether existing stems are replaced. Stems made later, beside kept ones, are rescaled on their own.
    """

    directory: Path
    format: str = "wav16"
    clipping: str = "rescale"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("format", self.format, get_args(AudioFormat)),
            ("clipping", self.clipping, get_args(Clipping)),
        ):
            if value not in known:
                raise InputError(f"There is no {name} {value!r}{suggest(value, known)}")
        if self.clipping == "none" and self.format != "wav32f":
            raise InputError(f"Clipping 'none' needs the format 'wav32f', not {self.format!r}; choose rescale or clamp")


def separate_files(
    model: Model,
    inputs: Iterable[Path],
    sources: tuple[str, ...],
    output: Output,
    *,
    residual: str | None = None,
    options: Options,
    progress: Callable[[AudioReader, str], Progress] | None = None,
) -> Iterator[Report]:
    """Separate files, and all audio files in folders, one report each; one that fails does not stop the next.

    The stems of ``dir/song.wav`` are ``<output>/song/<stem>.wav``, those of ``dir/sub/song.wav``, found in a given
    ``dir``, ``<output>/sub/song/<stem>.wav``. `residual` names one more stem: the mixture minus all `sources`.
    """
    tracks, missing = find_tracks(inputs, output.directory)
    yield from missing
    for folder, path in tracks.items():
        start = time.perf_counter()
        try:
            targets = {
                stem: output.directory / folder / f"{stem}{EXTENSIONS[output.format]}"
                for stem in (*sources, *([residual] if residual else []))
            }
            if _real(path) in map(_real, targets.values()):
                raise AudioError(f"{str(path)!r} would be replaced by its own stem; choose another output")
            wanted = {stem: file for stem, file in targets.items() if output.overwrite or not file.exists()}
            kept = tuple(stem for stem in targets if stem not in wanted)
            if not wanted:
                yield Report(path, kept=kept)
                continue
            if kept and (residual or options.consistent or options.wiener):
                raise AudioError(
                    f"{str(path)!r}: its stem {kept[0]} exists already, and a new {next(iter(wanted))} need not sum "
                    "with it to the mixture; use --overwrite or another output"
                )
            with open_audio(path) as reader:
                bar = progress(reader, path.name) if progress else None
                try:
                    written, seconds = _separate_file(model, reader, sources, wanted, output, residual, options, bar)
                finally:
                    if bar is not None:
                        bar.close()
            clipped = {stem: report.clipped for stem, report in written.reports.items() if report.clipped}
            elapsed = time.perf_counter() - start
            yield Report(path, None, kept, tuple(wanted), seconds, elapsed, clipped, written.gain)
        except InputError as error:
            yield Report(path, error=str(error))
        except OSError as error:
            yield Report(path, error=f"{str(error.filename or path)!r}: {error.strerror or error}; check the disk")


class Progress:
    """What a progress bar must do: `update` by seconds of audio done, and `close`."""

    def update(self, seconds: float) -> None:
        """Note that so many more seconds of audio are done."""

    def close(self) -> None:
        """End the display."""


def find_tracks(inputs: Iterable[Path], output: Path) -> tuple[dict[Path, Path], list[Report]]:
    """Return the audio files by the folder that their stems go to, and reports of inputs that cannot be used.

    Files that would share a folder, such as ``song.wav`` and ``song.mp3``, keep their extension in its name. An
    `output` within a given folder is no input: a second run finds no stems to separate.
    """
    named: dict[Path, list[tuple[Path, Path]]] = {}
    missing = []
    for given in map(Path, inputs):
        try:
            found = find_audio_files([given])
            if _real(given) in _real(output).parents:
                found = [path for path in found if not _real(path).is_relative_to(_real(output))]
                if not found:
                    raise AudioError(f"{str(given)!r} holds no audio files but those in the output")
            for path in found:
                relative = path.relative_to(given) if given.is_dir() else Path(path.name)
                folder = relative.with_suffix("")
                if folder.name in ("", ".", ".."):  # of a file named "..wav": no name of a folder
                    folder = relative
                files = named.setdefault(folder, [])
                if _real(path) not in [_real(other) for other, _ in files]:
                    files.append((path, relative))
        except AudioError as error:
            missing.append(Report(given, error=str(error)))
    tracks: dict[Path, Path] = {}
    for folder, files in named.items():
        for path, relative in files:
            target = folder if len(files) == 1 else relative
            if target in tracks:
                raise InputError(
                    f"{path} and {tracks[target]} would both be written to the folder {target}; "
                    "separate them in two runs with different outputs"
                )
            tracks[target] = path
    return tracks, missing


def _real(path: Path) -> Path:
    """Follow links; of a link to itself, whose use will fail, `Path.resolve` would fail here."""
    return Path(os.path.realpath(path))


def _separate_file(
    model: Model,
    reader: AudioReader,
    sources: tuple[str, ...],
    wanted: Mapping[str, Path],
    output: Output,
    residual: str | None,
    options: Options,
    bar: Progress | None,
) -> tuple[StemWriter, float]:
    # the residual needs every source; without it, only what is written is computed
    computed = sources if residual in wanted else tuple(source for source in sources if source in wanted)
    names = [*computed, *([residual] if residual in wanted else [])]
    rows = [names.index(stem) for stem in wanted]
    done = 0
    with (
        _folder(next(iter(wanted.values())).parent),
        open_stems(
            wanted, reader.sample_rate, reader.channels, format=output.format, clipping=output.clipping
        ) as writer,
        prefetch(stem_blocks(model, reader, computed, residual in wanted, options), ahead=2) as ready,
    ):
        for stems in ready:
            writer.write(stems[rows])
            done += stems.shape[-1]
            if bar is not None:
                bar.update(stems.shape[-1] / reader.sample_rate)
    return writer, done / reader.sample_rate


def stem_blocks(
    model: Model, reader: AudioReader, sources: tuple[str, ...], residual: bool, options: Options
) -> Iterator[Stems]:
    """Separate an open file into blocks of stems at its own rate and channels, as long in total as the file.

    With `residual`, a last stem follows: the mixture minus all the others. A model that needs the level of a track has
    it measured first: the file is then read twice.
    """
    rate, channels = reader.sample_rate, reader.channels
    level = None
    if needs_level(model, sources, options):
        with open_audio(reader.path) as again, prefetch(_resampled(model, rate, again.blocks(rate)), ahead=2) as ready:
            level = measure(ready)
    back = Resampler(model.sample_rate, rate, len(sources) * model.channels)
    mixture: deque[np.ndarray] = deque()  # what was read and not yet given back, if that is asked for
    length = 0

    def read() -> Iterator[np.ndarray]:
        nonlocal length
        for block in reader.blocks(rate):
            length += block.shape[-1]
            if residual or options.consistent:
                mixture.append(block)
            yield block

    def given_back(flat: np.ndarray) -> Stems:
        stems = to_channels(flat.reshape(len(sources), model.channels, -1), channels)
        if residual:
            return np.concatenate([stems, (_take(mixture, *stems.shape[1:]) - stems.sum(0))[None]])
        return distribute_residual(stems, _take(mixture, *stems.shape[1:])) if options.consistent else stems

    with closing(separate_blocks(model, _resampled(model, rate, read()), sources, options, level)) as separated:
        for stems in separated:
            block = back.process(stems.reshape(-1, stems.shape[-1]))
            if block.shape[-1]:
                yield given_back(block)
    yield given_back(back.flush(length))


def _resampled(model: Model, rate: int, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks at `rate` as blocks at the rate and with the channels of the model."""
    resampler = Resampler(rate, model.sample_rate, model.channels)
    for block in blocks:
        yield resampler.process(to_channels(block, model.channels))
    yield resampler.flush()


def _take(blocks: deque[np.ndarray], channels: int, count: int) -> Block:
    """Remove the first `count` samples from a queue of blocks."""
    taken = [np.zeros((channels, 0), np.float32)]
    while count:
        block = blocks.popleft()
        if block.shape[-1] > count:
            blocks.appendleft(block[:, count:])
            block = block[:, :count]
        taken.append(block)
        count -= block.shape[-1]
    return np.concatenate(taken, axis=-1)


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it where they are missing; remove them again if the body fails."""
    made: list[Path] = []
    try:
        for level in (*reversed(folder.parents), folder):
            if not level.exists():
                made.append(level)
                _make(level)
        yield
    except BaseException:
        for level in reversed(made):
            with suppress(OSError):  # somebody else's files may be in it by now
                level.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise AudioError(f"The folder {folder} cannot be made ({error.strerror}); choose another output") from None
