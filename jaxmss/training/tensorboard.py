"""What a run shows in TensorBoard: curves, its config, and excerpts of validation tracks to see and to hear.

TensorBoard itself is not needed to write this, and neither is TensorFlow: `tensorboard --logdir RUN` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from jaxmss.demo.spectrogram import spectrogram_png
from jaxmss.training.validation import Excerpt, Waveform

SECONDS_KEPT = 10  # before what was written is on disk


class Board:
    """Writes a run's TensorBoard files.

    What an earlier process of the run wrote after step `first`, which this one goes on from, is hidden.
    """

    def __init__(self, directory: Path, first: int):
        # files are named after the second: one that another process began within it must not be replaced
        suffix = f".{first:09}"
        self._writer = SummaryWriter(
            str(directory), purge_step=first + 1, flush_secs=SECONDS_KEPT, filename_suffix=suffix
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; a name's part before a "/" is its group."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, content: str) -> None:
        """Add text, shown as it is."""
        self._writer.add_text(name, "".join(f"    {line}\n" for line in content.splitlines()), step)

    def excerpts(self, step: int, excerpts: tuple[Excerpt, ...], fixed: bool) -> None:
        """Add sound and spectrogram of each estimate, and, if `fixed`, of what does not change: mixture, references."""
        for excerpt in excerpts:
            waveforms = {f"{source}/estimate": waveform for source, waveform in excerpt.estimates.items()}
            if fixed:
                waveforms["mixture"] = excerpt.mixture
                waveforms |= {f"{source}/reference": waveform for source, waveform in excerpt.references.items()}
            for name, waveform in waveforms.items():
                self._clip(step, f"{excerpt.track}/{name}", waveform, excerpt.rate)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _clip(self, step: int, name: str, waveform: Waveform, rate: int) -> None:
        self._writer.add_audio(name, np.clip(waveform[:2].T, -1, 1), step, rate)  # TensorBoard plays two channels
        png = spectrogram_png(waveform, rate)
        # tensorboardX would encode pixels with Pillow; a PNG is ready, and its size stands in its header
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
