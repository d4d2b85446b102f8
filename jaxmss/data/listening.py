"""What is measured of a track while it is read, block by block. Nothing here imports JAX."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxmss.data.clips import FULL_SCALE, to_pcm
from jaxmss.data.tracks import Waveform

CLIPPED_RUN = 3  # samples in a row at full scale
ROUNDING = 4 / FULL_SCALE  # five signals of 16 bits differ by up to 2.5 steps
LOSSY_SDR = 20.0  # dB; at 256 kbit/s the sum of coded stems was measured to reach 31 dB


@dataclass(frozen=True)
class Problem:
    """What is wrong with a track or a split, in one line; only errors are in the way of training."""

    text: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.text}"


@dataclass
class StemScan:
    """What is heard of one stem while it passes.

    Attributes:
      rate: in Hz.
      channels: 1 or 2.
      samples: so far.
      peak: greatest level of a sample.
      clipped: runs of samples at full scale.
      first_clipped: sample that the first of them starts at.
      whole: whether the stem was read to its end.
      digest: of the samples, rounded to 16 bits.
    """

    rate: int = 0
    channels: int = 0
    samples: int = 0
    peak: float = 0.0
    clipped: int = 0
    first_clipped: int = 0
    whole: bool = False
    digest: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    _full: np.ndarray | None = None  # whether each of the last samples is at full scale

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing beyond a dither of one step."""
        return self.peak <= 1 / FULL_SCALE

    def add(self, block: Waveform, rate: int) -> None:
        """Take in the next block."""
        self.rate, self.channels = rate, len(block)
        level = np.abs(block)
        self.peak = max(self.peak, float(level.max()))
        before = CLIPPED_RUN if self._full is None else self._full.shape[1]
        held = np.zeros((self.channels, before), bool) if self._full is None else self._full
        full = np.concatenate([held, level >= 1 - 1 / FULL_SCALE], axis=1)
        self._full = full[:, -CLIPPED_RUN:]
        if self.peak >= 1 - 1 / FULL_SCALE:
            runs = ~full[:, :-CLIPPED_RUN]  # a run counts where it reaches its length, once
            for later in range(1, CLIPPED_RUN + 1):
                runs = runs & full[:, later : full.shape[1] - CLIPPED_RUN + later]
            if not self.clipped and runs.any():
                self.first_clipped = self.samples + int(np.argmax(runs.any(axis=0))) + 1 - CLIPPED_RUN
            self.clipped += int(runs.sum())
        self.samples += block.shape[1]
        self.digest.update(to_pcm(block.T).tobytes())

    def problems(self, stem: str) -> Iterator[Problem]:
        """Yield what is odd about the sound."""
        if self.is_silent:
            yield Problem(f"{stem} is silent", is_error=False)
        if self.clipped:
            second = self.first_clipped / self.rate
            yield Problem(
                f"{stem} is clipped {self.clipped} times ({CLIPPED_RUN} or more samples in a row at full scale), the "
                f"first at {second:.3f} s",
                is_error=False,
            )


@dataclass
class MixtureScan:
    """How far the mixture is from the sum of its stems.

    Attributes:
      energy: of the mixture.
      error: energy of the difference.
      peak: greatest difference of a sample.
      peak_at: where that is.
    """

    energy: float = 0.0
    error: float = 0.0
    peak: float = 0.0
    peak_at: int = 0
    _samples: int = 0

    def add(self, mixture: Waveform, total: Waveform) -> None:
        """Take in the next block of the mixture, and of the sum of its stems."""
        difference = np.abs(mixture - total)
        self.energy += float(np.square(mixture, dtype=np.float64).sum())
        self.error += float(np.square(difference, dtype=np.float64).sum())
        if (peak := float(difference.max())) > self.peak:
            self.peak, self.peak_at = peak, self._samples + int(np.argmax(difference.max(axis=0)))
        self._samples += mixture.shape[1]

    def problems(self, rate: int, lossy: bool) -> Iterator[Problem]:
        """Yield by how much the two differ, if it is by more than rounding; coding with losses differs more."""
        sdr = 10 * math.log10(self.energy / self.error) if self.error and self.energy else math.inf
        if (sdr < LOSSY_SDR) if lossy else (self.peak > ROUNDING):
            yield Problem(
                f"mixture is not the sum of the stems: SDR {sdr:.1f} dB, off by up to {self.peak:.4f} of full scale at "
                f"{self.peak_at / rate:.3f} s",
                is_error=False,
            )
