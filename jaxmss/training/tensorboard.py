"""What a run shows in TensorBoard: curves, its config, and excerpts of validation tracks to see and to hear.

TensorBoard itself is not needed to write this, and neither is TensorFlow: `tensorboard --logdir RUN` reads it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxmss.audio.aside import reporting
from jaxmss.demo.spectrogram import spectrogram_png
from jaxmss.training.validation import Excerpt, Waveform

logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it warns of every loss that is not finite


class Board:
    """Writes a run's TensorBoard files.

    What an earlier process of the run wrote after step `first`, which this one goes on from, is hidden.

    Every method raises `InputError` if the directory cannot be written. It writes at once: tensorboardX's own
    `SummaryWriter` writes from a thread, and waits for it for ever once a full disk has ended it.
    """

    def __init__(self, directory: Path, first: int):
        self._directory = directory
        with reporting(directory):
            directory.mkdir(exist_ok=True)
            # files are named after the second: one that another process began within it must not be replaced
            self._writer = EventsWriter(str(directory / "events"), f".{first:09}")
            restart = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=first + 1, wall_time=time.time(), session_log=restart))
            self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; a name's part before a "/" is its group."""
        self._write(step, [summary.scalar(name, value) for name, value in values.items()])

    def text(self, step: int, name: str, content: str) -> None:
        """Add text, shown as it is."""
        self._write(step, [summary.text(name, "".join(f"    {line}\n" for line in content.splitlines()))])

    def excerpts(self, step: int, excerpts: tuple[Excerpt, ...], fixed: bool) -> None:
        """Add sound and spectrogram of each estimate, and, if `fixed`, of what does not change: mixture, references."""
        for excerpt in excerpts:
            track = excerpt.track.encode(errors="backslashreplace").decode()  # the name of a folder may be no text
            waveforms = {f"{source}/estimate": waveform for source, waveform in excerpt.estimates.items()}
            if fixed:
                waveforms["mixture"] = excerpt.mixture
                waveforms |= {f"{source}/reference": waveform for source, waveform in excerpt.references.items()}
            for name, waveform in waveforms.items():
                self._write(step, _clip(f"{track}/{name}", waveform, excerpt.rate))

    def close(self) -> None:
        """Close the file; all is written already."""
        with suppress(OSError):  # what a full disk refused is told already
            self._writer.close()

    def _write(self, step: int, summaries: list[Summary]) -> None:
        values = [value for part in summaries for value in part.value]
        with reporting(self._directory):
            self._writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
            self._writer.flush()


def _clip(name: str, waveform: Waveform, rate: int) -> list[Summary]:
    """Return a sound and its spectrogram."""
    sound = summary.audio(name, np.clip(waveform[:2].T, -1, 1), rate)  # TensorBoard plays two channels
    png = spectrogram_png(waveform, rate)
    # tensorboardX would encode pixels with Pillow; here is a PNG already, whose header holds its size
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
    return [sound, Summary(value=[Summary.Value(tag=name, image=image)])]
