"""The configuration of a training run: frozen dataclasses that check themselves, written as JSON into the run.

Durations of training are in hours of audio seen, as the papers give them, so that they hold for any batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

from jaxmss.config import ResUNetConfig, check
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig

Network = ResUNetConfig | DemucsConfig | HybridDemucsConfig  # that can be trained

SUM = "+"  # between the stems of a choice that are added up
SYNTH = "synth:"  # before the folder of synthetic songs


@dataclass(frozen=True)
class Part:
    """One ingredient of a mixture. A network's source of the same name learns to find it.

    Attributes:
      name: of the ingredient.
      choices: what it is drawn from, all equally likely: a stem, or stems joined by "+", which are added up.
      count: chunks that are drawn and added up, each from a random track.
    """

    name: str
    choices: tuple[str, ...]
    count: int = 1

    def __post_init__(self) -> None:
        check(self.count >= 1, "count", self.count, "it must be at least 1")
        named = bool(self.choices) and all(all(choice.split(SUM)) for choice in self.choices)
        check(named, "choices", self.choices, f"name stems, such as 'vocals' or 'bass{SUM}drums'")


@dataclass(frozen=True)
class Data:
    """What is learned from.

    Attributes:
      root: folder of MUSDB18-HQ, MUSDB18 or alike, with a folder for each split; a prepared data set of this package;
        or `synth:DIR`, songs that are made there first if need be.
      split: folder of the tracks to train on.
      valid: folder of the tracks to validate on; the 14 validation tracks of MUSDB18 are taken out of `split` where
        there is no such folder.
      folders: names of stems whose recordings lie in folders of their own, `DIR/split/STEM/*.wav`, instead of in a
        folder for each track.
      parts: ingredients of a mixture.
      seconds: length of an example, in seconds.
      batch: examples in a step, over all devices.
      remix: probability that the parts of an example come from tracks of their own, not from one moment of one track.
      gain: least and greatest factor of a chunk's amplitude, drawn evenly between them.
      swap_channels: probability that a chunk's channels are swapped.
      flip_polarity: probability that a chunk's sign is flipped.
      threads: that read audio, in each process.
    """

    root: str = ""
    split: str = "train"
    valid: str = "valid"
    folders: tuple[str, ...] = ()
    parts: tuple[Part, ...] = (
        Part("vocals", ("vocals",)),
        Part("accompaniment", ("bass", "drums", "other", "bass+drums+other")),
    )
    seconds: float = 3.0
    batch: int = 64
    remix: float = 1.0
    gain: tuple[float, float] = (1.0, 1.0)
    swap_channels: float = 0.0
    flip_polarity: float = 0.0
    threads: int = 8

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        check(bool(names) and len(set(names)) == len(names), "parts", names, "name each part once")
        check(
            PurePath(self.split) != PurePath(self.valid),
            "valid",
            self.valid,
            f"validate on other tracks than split (={self.split!r})",
        )
        check(0 < self.seconds <= 600, "seconds", self.seconds, "it must be above 0 s and at most 600 s")
        check(self.batch >= 1, "batch", self.batch, "it must be at least 1")
        check(self.threads >= 1, "threads", self.threads, "it must be at least 1")
        check(0 <= self.gain[0] <= self.gain[1] < math.inf, "gain", self.gain, "give factors, the least first")
        for name in ("remix", "swap_channels", "flip_polarity"):
            check(0 <= getattr(self, name) <= 1, name, getattr(self, name), "it must be 0 to 1")
        if self.folders:
            check(self.remix == 1, "remix", self.remix, "it must be 1 with folders: they hold no whole songs")
            for part in self.parts:
                one = not any(SUM in choice for choice in part.choices)
                check(one, "choices", part.choices, f"with folders, name single ones ({SUM!r} is for stems of a song)")


@dataclass(frozen=True)
class Loss:
    """What is minimised: L1 distances, summed over sources.

    Attributes:
      waveform: weight of the distance between waveforms.
      spectrogram: weight of the distance between magnitude spectrograms.
      n_fft: STFT window of those, in samples.
      hop: STFT hop of those, in samples.
      conserve_after: steps after which the same distance between the sums over sources is added; None for never.
    """

    waveform: float = 1.0
    spectrogram: float = 0.0
    n_fft: int = 2048
    hop: int = 441
    conserve_after: int | None = None

    def __post_init__(self) -> None:
        after = self.conserve_after
        check(after is None or 0 <= after < 2**31, "conserve_after", after, "it must be 0 to 2**31 - 1 steps")
        for name in ("waveform", "spectrogram"):
            check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "it must be a number of at least 0")
        check(self.waveform + self.spectrogram > 0, "waveform", self.waveform, "one of the weights must be above 0")
        check(1 <= self.hop <= self.n_fft // 2, "hop", self.hop, f"it must be 1 to half of n_fft (={self.n_fft})")


@dataclass(frozen=True)
class Optim:
    """Adam, its learning rate, and what is done to gradients.

    Attributes:
      amsgrad: whether Adam divides by the greatest second moments that there were, not by the latest.
      lr: learning rate after the warm-up.
      warmup: hours of audio over which it rises from 0.
      decay: factor that it is multiplied by, again and again.
      decay_every: hours of audio between two decays.
      clip: greatest global norm of the gradients, longer ones are scaled down to it; None for any.
      ema: decay of the exponential moving average of parameters and statistics, which a run is judged by; 0 for none,
        as it is in the papers of CWS-PResUNet and bytesep.
      give_up_after: steps in a row with a loss or gradient that is not finite, after which training stops.
    """

    amsgrad: bool = True
    lr: float = 1e-3
    warmup: float = 26.6
    decay: float = 0.9
    decay_every: float = 400.0
    clip: float | None = None
    ema: float = 0.999
    give_up_after: int = 20

    def __post_init__(self) -> None:
        for name in ("lr", "decay", "decay_every"):
            check(0 < getattr(self, name) < math.inf, name, getattr(self, name), "it must be above 0 and finite")
        check(0 <= self.warmup < math.inf, "warmup", self.warmup, "it must be at least 0 h and finite")
        check(self.clip is None or self.clip > 0, "clip", self.clip, "it must be above 0")
        check(0 <= self.ema < 1, "ema", self.ema, "it must be at least 0 and below 1")
        check(self.give_up_after >= 1, "give_up_after", self.give_up_after, "it must be at least 1")


@dataclass(frozen=True)
class Compute:
    """How a step is computed.

    Attributes:
      dtype: inside the network; parameters, statistics, signal processing and losses are float32 always.
      remat: compute activations again in the backward pass instead of keeping them.
      accumulate: parts that a batch is cut into, one after another, to save memory.
      fsdp: devices that share one copy of the parameters; the others hold copies of their own.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    accumulate: int = 1
    fsdp: int = 1

    def __post_init__(self) -> None:
        check(self.accumulate >= 1, "accumulate", self.accumulate, "it must be at least 1")
        check(self.fsdp >= 1, "fsdp", self.fsdp, "it must be at least 1")


@dataclass(frozen=True)
class Checkpoints:
    """What is kept of a run.

    Attributes:
      every: steps that a kill loses at most; in each so many, two checkpoints are written.
      keep: newest checkpoints that are kept, of which each interval has two; the best by validation is kept besides.
    """

    every: int = 1000
    keep: int = 3

    def __post_init__(self) -> None:
        check(self.every >= 1, "every", self.every, "it must be at least 1 step")
        check(self.keep >= 1, "keep", self.keep, "it must be at least 1")


@dataclass(frozen=True)
class Validation:
    """How a run is judged on the validation tracks: median SDR as museval defines it.

    Attributes:
      every: steps between two validations; 0 for none.
      tracks: first so many of the validation tracks; None for all.
      excerpts: tracks of which 10 s of audio and spectrograms are logged: of those that process 0 validates on.
    """

    every: int = 5000
    tracks: int | None = None
    excerpts: int = 3

    def __post_init__(self) -> None:
        check(self.every >= 0, "every", self.every, "it must be at least 0 steps")
        check(self.tracks is None or self.tracks >= 1, "tracks", self.tracks, "it must be at least 1")
        check(self.excerpts >= 0, "excerpts", self.excerpts, "it must be at least 0")


@dataclass(frozen=True)
class Watch:
    """What is told while training.

    Attributes:
      every: steps between two lines of metrics.
      profile: first step and number of steps of a profile for TensorBoard; 0 steps for none.
    """

    every: int = 50
    profile: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        check(self.every >= 1, "every", self.every, "it must be at least 1 step")
        check(min(self.profile) >= 0, "profile", self.profile, "give a step and a number of steps")


@dataclass(frozen=True)
class Config:
    """One training run.

    Attributes:
      model: the network.
      data: what is learned from.
      loss: what is minimised.
      optim: how it is minimised.
      compute: how a step is computed.
      checkpoints: what is kept.
      validation: how the run is judged.
      watch: what is told meanwhile.
      hours: of audio to train on.
      seed: of the initial parameters and of all draws.
      init: checkpoint or published name whose weights to start from.
      init_partly: with `init`, leave parameters as initialised that the checkpoint lacks or has in other shapes.
    """

    model: Network
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    compute: Compute = field(default_factory=Compute)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    validation: Validation = field(default_factory=Validation)
    watch: Watch = field(default_factory=Watch)
    hours: float = 10_000.0
    seed: int = 0
    init: str | None = None
    init_partly: bool = False

    def __post_init__(self) -> None:
        check(0 < self.hours < math.inf, "hours", self.hours, "it must be above 0 h and finite")
        check(0 <= self.seed < 2**32, "seed", self.seed, "it must be 0 to 2**32 - 1")
        names = [part.name for part in self.data.parts]
        missing = [source for source in self.model.sources if source not in names]
        check(not missing, "sources", self.model.sources, f"the mixture has only the parts {', '.join(names)}")
        samples = round(self.data.seconds * self.model.sample_rate)
        check(samples >= 1, "seconds", self.data.seconds, "it must be a sample or more")
        for where, name in ((self, "hours"), (self.optim, "warmup"), (self.optim, "decay_every")):
            hours = getattr(where, name)
            check(self.steps(hours) < 2**31, name, hours, "these are more steps than 2**31 - 1")
        per_step, accumulate = self.data.batch, self.compute.accumulate
        check(per_step % accumulate == 0, "batch", per_step, f"it must be divisible by accumulate (={accumulate})")

    def steps(self, hours: float) -> int:
        """Return the steps in which so many hours of audio are seen."""
        return max(1, round(hours * 3600 / (self.data.batch * self.data.seconds)))
