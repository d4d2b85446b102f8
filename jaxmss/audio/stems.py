"""Writing the stems of one track together, with one decision about clipping for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np

from jaxmss.audio.aside import reporting, written_aside
from jaxmss.audio.writing import AudioWriter, check_format, encoding
from jaxmss.errors import AudioError, suggest

Clipping = Literal["rescale", "clamp", "none"]
BLOCK = 1 << 16  # samples rescaled at a time


@dataclass
class StemReport:
    """What one stem was like before anything was done about clipping.

    Attributes:
        path: the file.
        peak: the largest magnitude of its samples; full scale is 1.
        clipped: how many samples (each channel's counted) lay beyond full scale.
    """

    path: Path
    peak: float = 0.0
    clipped: int = 0


class StemWriter:
    """Takes the stems of one track in blocks, from `open_stems`.

    Attributes:
        reports: by stem name; complete when the context has ended.
        gain: the factor that all stems were multiplied with; known when the context has ended.
    """

    def __init__(self, paths: Mapping[str, Path], sample_rate: int, sinks: list[AudioWriter]):
        self.reports = {name: StemReport(path) for name, path in paths.items()}
        self.gain = 1.0
        self._sample_rate, self._sinks = sample_rate, sinks
        self._done = 0

    def write(self, block: np.ndarray) -> None:
        """Append float32 samples (j, c, t) of all stems, in the order of the paths.

        Raises:
            AudioError: if a sample is NaN or infinite, or the disk is full.
            ValueError: if the shape does not fit.
        """
        for (name, report), stem, sink in zip(self.reports.items(), block, self._sinks, strict=True):
            magnitude = np.abs(stem)
            peak = float(magnitude.max(initial=0.0))
            if not np.isfinite(peak):
                second = (self._done + int(np.argmin(np.isfinite(stem).all(axis=0)))) / self._sample_rate
                raise AudioError(
                    f"stem {name!r} has NaN or infinite samples, the first at {second:.3f} s, so the track's stems are "
                    "not written; try another model"
                )
            report.peak = max(report.peak, peak)
            report.clipped += int(np.count_nonzero(magnitude > 1.0))
            sink.write(stem)
        self._done += block.shape[-1]


@contextmanager
def open_stems(
    paths: Mapping[str, Path | str],
    sample_rate: int,
    channels: int,
    *,
    format: str,
    clipping: str = "rescale",
) -> Iterator[StemWriter]:
    """Write one file per stem; all appear under their names, complete, when the context ends well, or none does.

    `format` is an `AudioFormat`; `clipping`, a `Clipping`, decides about samples beyond full scale:

    - `rescale` multiplies all stems by one gain (at most 1), so that the largest peak is at full scale and their
      balance holds. The gain is known only at the end, so the stems wait as float32 in unnamed files in the output
      directory: it needs room for 4 bytes a sample and channel beside the result, and memory for a block.
    - `clamp` cuts them off at full scale.
    - `none` writes them as they are, which only `wav32f` can hold.

    Raises:
        AudioError: as `writing.open_writer` does, and for an unknown `clipping` or one that the format cannot hold.
    """
    targets = {name: Path(path) for name, path in paths.items()}
    if clipping not in get_args(Clipping):
        raise AudioError(f"unknown clipping {clipping!r}{suggest(clipping, get_args(Clipping))}")
    if clipping == "none" and format != "wav32f":
        raise AudioError(f"clipping 'none' needs the format 'wav32f', not {format!r}; choose rescale or clamp")
    for path in targets.values():
        check_format(path, sample_rate, format)
    with ExitStack() as stack:
        files = stack.enter_context(written_aside(list(targets.values())))
        encoders: list[AudioWriter] = [
            stack.enter_context(encoding(file, path, sample_rate, channels, format))
            for file, path in zip(files, targets.values(), strict=True)
        ]
        if clipping == "none":
            yield StemWriter(targets, sample_rate, encoders)
        elif clipping == "clamp":
            yield StemWriter(targets, sample_rate, [_Clamped(encoder) for encoder in encoders])
        else:
            parked = [stack.enter_context(_parked(path, channels)) for path in targets.values()]
            writer = StemWriter(targets, sample_rate, list(parked))
            yield writer
            peak = max((report.peak for report in writer.reports.values()), default=0.0)
            writer.gain = min(1.0, 1.0 / peak) if peak else 1.0
            for source, encoder in zip(parked, encoders, strict=True):
                for block in source.blocks():
                    encoder.write(np.clip(block * np.float32(writer.gain), -1.0, 1.0))  # rounding can exceed 1


@dataclass
class _Clamped:
    encoder: AudioWriter

    def write(self, block: np.ndarray) -> None:
        self.encoder.write(np.clip(block, -1.0, 1.0))


@dataclass
class _Parked:
    """Float32 samples in a file without a name, which vanishes whatever ends the process."""

    file: BinaryIO
    path: Path
    channels: int

    def write(self, block: np.ndarray) -> None:
        with reporting(self.path):
            self.file.write(np.ascontiguousarray(block.T, np.float32).tobytes())

    def blocks(self) -> Iterator[np.ndarray]:
        with reporting(self.path):
            self.file.seek(0)
            while content := self.file.read(BLOCK * self.channels * 4):
                yield np.frombuffer(content, np.float32).reshape(-1, self.channels).T


@contextmanager
def _parked(path: Path, channels: int) -> Iterator[_Parked]:
    with reporting(path):
        file = tempfile.TemporaryFile(dir=path.parent, prefix=".jaxmss-")  # noqa: SIM115, closed below
    try:
        yield _Parked(file, path, channels)
    finally:
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            file.close()
