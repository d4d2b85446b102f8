"""Validation: separate whole tracks with the weights of the moment, and score them as museval does.

    validator = Validator(config, tracks)  # reads every track once: a bad one is told before training starts
    result = validator({"params": state.params, "batch_stats": state.batch_stats})
    result.mean, result.sdr["vocals"], result.mixture["vocals"]

Every process makes a validator and calls it at the same steps. The first of n takes the first n-th of the tracks and
so on, one at a time, and separates on its own devices, as many windows at once as it has of them, with one program that
is compiled once. Every process gets the scores of all tracks.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxmss.data.songs import summed_stems
from jaxmss.data.tracks import MIXTURE, Track
from jaxmss.errors import AudioError, InputError
from jaxmss.evaluation import SilentStemError, median_over_frames, score_track
from jaxmss.separator import Options, Separator, separate
from jaxmss.training.config import Config
from jaxmss.typing import Float, Int, Variables

EXCERPT = 10  # seconds
_TOLD = 400  # bytes of why a track failed

Waveform = Float[np.ndarray, "c t"]
Stems = dict[str, Waveform]


@dataclass(frozen=True)
class Excerpt:
    """The `EXCERPT` seconds of a track in which its first source is loudest: the same in every validation.

    Attributes:
      track: its name.
      rate: in Hz, of all waveforms (c, t).
      mixture: what there was to separate.
      references: what should have come out, by source.
      estimates: what came out, by source.
    """

    track: str
    rate: int
    mixture: Waveform
    references: Stems
    estimates: Stems


@dataclass(frozen=True)
class Result:
    """What one validation found.

    Attributes:
      tracks: name -> source -> median SDR over the track's frames, in dB; `nan` where nothing could be scored.
      mixture: source -> median SDR over the same tracks of the mixture itself, in dB: the figure to improve on.
      over: which tracks there are. Results over the same are compared.
      failed: name -> why, of tracks that could not be read, separated or scored.
      excerpts: of the first tracks of this process.
      seconds: that it took.
    """

    tracks: Mapping[str, Mapping[str, float]]
    mixture: Mapping[str, float]
    over: str
    failed: Mapping[str, str]
    excerpts: tuple[Excerpt, ...]
    seconds: float

    @property
    def sdr(self) -> dict[str, float]:
        """Median SDR over the tracks that have one, by source, in dB; `nan` where none has."""
        return _over_tracks(self.tracks)

    @property
    def mean(self) -> float:
        """Mean over the sources of `sdr`: the figure by which checkpoints are compared."""
        return float(np.mean(list(self.sdr.values())))


class _InterruptedError(BaseException):
    """No failure of a track: the run is to stop."""


class Validator:
    """Scores weights on validation tracks.

    Attributes:
      over: how many tracks, and a sum over their names and what the mixture scores on each.
      left_out: names of tracks that BSS Eval cannot score, for one of the sources is silent throughout.

    Raises `InputError`, on every process, naming a track that cannot be read or is of another rate or other
    channels than the network, and where none can be scored.
    """

    def __init__(self, config: Config, tracks: Sequence[Track]):
        local = Mesh(np.array(jax.local_devices()), ("window",), axis_types=(AxisType.Auto,))
        self._copied = NamedSharding(local, PartitionSpec())
        self._model = _Model(config.model, {}, config.compute.dtype, NamedSharding(local, PartitionSpec("window")))
        sums = summed_stems(config.data.parts)
        self._stems = {source: sums[source] for source in config.model.sources}
        self._excerpts = config.validation.excerpts

        tracks = tracks[: config.validation.tracks]
        scores, failed, _ = self._over(tracks, lambda mixture: dict.fromkeys(self._stems, mixture), excerpts=0)
        for name, why in failed.items():
            raise InputError(f"Validation track {name!r} cannot be used: {why}")
        scored = {name: sdr for name, sdr in scores.items() if not np.isnan(list(sdr.values())).any()}
        if not scored:
            raise InputError(
                f"None of the {len(tracks)} validation tracks can be scored: each has a source that is silent "
                "throughout; add tracks or set validation.every to 0"
            )
        self._mixture = scored
        self.over = f"{len(scored)} tracks, {zlib.crc32(repr(_rounded(scored)).encode()):08x}"
        self.left_out = tuple(name for name in scores if name not in scored)
        self._tracks = [track for track in tracks if track.name in scored]

    def __call__(self, variables: Variables, interrupted: Callable[[], bool] = lambda: False) -> Result | None:
        """Score the variables of the network, wherever they lie on the devices of the run.

        A track that fails does not stop the others, nor the run: the result tells of it. There is none if
        `interrupted()` is true before a track, in a run of a single process: several could not agree on it.
        """
        start = time.perf_counter()
        model = self._model.with_variables(_on_each_device(variables, self._copied))

        def estimate(mixture: Waveform) -> Stems:
            if interrupted():
                raise _InterruptedError
            separated = separate(model, mixture, options=Options(batch_size=self._copied.num_devices))
            return dict(zip(model.sources, separated, strict=True))

        try:
            scores, failed, excerpts = self._over(self._tracks, estimate, self._excerpts)
        except _InterruptedError:
            return None
        mixture = {name: sdr for name, sdr in self._mixture.items() if name not in failed} or self._mixture
        return Result(scores, _over_tracks(mixture), self.over, failed, excerpts, time.perf_counter() - start)

    def _over(
        self, tracks: Sequence[Track], estimate: Callable[[Waveform], Stems], excerpts: int
    ) -> tuple[dict[str, dict[str, float]], dict[str, str], tuple[Excerpt, ...]]:
        """Score this process's share of `tracks`; return all processes' scores and failures, and its own excerpts."""
        share = _share(len(tracks))
        first = share * jax.process_index()
        sdr = np.full((len(tracks), len(self._stems)), np.nan)
        told = [""] * len(tracks)
        kept: list[Excerpt] = []
        for i in range(len(tracks))[first : first + share]:
            try:
                mixture, references, rate = self._read(tracks[i])
                estimates = estimate(mixture)
                sdr[i] = _medians(references, estimates, rate)
            except Exception as error:  # whatever it is, the other processes wait for this one's scores
                told[i] = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                continue
            if len(kept) < excerpts:
                kept.append(_excerpt(tracks[i].name, rate, mixture, references, estimates))
        sdr, told = _gathered(sdr, told)
        scores = {
            track.name: dict(zip(self._stems, map(float, row), strict=True))
            for track, row in zip(tracks, sdr, strict=True)
        }
        failed = {track.name: why for track, why in zip(tracks, told, strict=True) if why}
        return scores, failed, tuple(kept)

    def _read(self, track: Track) -> tuple[Waveform, Stems, int]:
        """Return the mixture of a track, the reference of every source, and their rate."""
        references, rate = track.read_sums({MIXTURE: (MIXTURE,), **self._stems})
        mixture = references.pop(MIXTURE)
        channels, model = len(mixture), self._model
        if rate != model.sample_rate:
            raise AudioError(f"it is at {rate} Hz, the network at {model.sample_rate} Hz; resample the data")
        if channels != model.channels:
            raise AudioError(f"it has {channels} channels, the network {model.channels}; convert the data")
        return mixture, references, rate


@dataclass(frozen=True)
class _Model(Separator):
    """A separator that spreads windows over devices, and whose program serves any weights."""

    spread: Any = None

    def with_variables(self, variables: Variables) -> Separator:
        changed = _Model(self.config, variables, self.dtype, self.spread)
        vars(changed)["_apply"] = self._apply  # where the cached property keeps it
        return changed

    def __call__(self, mixture: Any, sources: Any = None, lengths: Any = None) -> jax.Array:
        return super().__call__(jax.device_put(mixture, self.spread), sources, lengths)


def _medians(references: Stems, estimates: Stems, rate: int) -> list[float]:
    """Return the median SDR of each source; `nan` for all if one is silent throughout, as BSS Eval has it."""
    try:
        scores = score_track(references, estimates, rate, measures=("SDR",))
    except SilentStemError:
        return [float("nan")] * len(references)
    return [median_over_frames(scores[source]["SDR"]) for source in references]


def _over_tracks(tracks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the median over the tracks that have a score, by source."""
    sources = next(iter(tracks.values()))
    return {source: median_over_frames(np.array([track[source] for track in tracks.values()])) for source in sources}


def _rounded(tracks: Mapping[str, Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Return scores by track, to a tenth of a dB: machines differ in the last digits."""
    return [(name, [round(sdr, 1) for sdr in scores.values()]) for name, scores in sorted(tracks.items())]


def _excerpt(name: str, rate: int, mixture: Waveform, references: Stems, estimates: Stems) -> Excerpt:
    energy = np.square(next(iter(references.values()))).sum(0, dtype=np.float64)
    seconds = np.add.reduceat(energy, np.arange(0, len(energy), rate))
    windows = np.convolve(seconds, np.ones(min(EXCERPT, len(seconds))), "valid")
    first = int(windows.argmax()) * rate
    part = np.s_[:, first : first + EXCERPT * rate]
    cut = [{s: waveform[part].copy() for s, waveform in stems.items()} for stems in (references, estimates)]
    return Excerpt(name, rate, mixture[part].copy(), *cut)


def _share(tracks: int) -> int:
    """Return how many tracks a process takes: consecutive ones, so that process 0 has the first for its excerpts."""
    return -(-tracks // jax.process_count())


def _gathered(sdr: Float[np.ndarray, "n j"], told: list[str]) -> tuple[Float[np.ndarray, "n j"], list[str]]:
    """Return each track's row as the process has it that track n is of; JAX would round float64, so bytes travel."""
    words = np.zeros((len(told), _TOLD), np.uint8)
    for row, text in zip(words, told, strict=True):
        data = text.encode(errors="backslashreplace")[:_TOLD]
        row[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.concatenate([np.ascontiguousarray(sdr).view(np.uint8), words], axis=1)
    if jax.process_count() > 1:
        everyone: Int[np.ndarray, "p n bytes"] = np.asarray(multihost_utils.process_allgather(rows))
        rows = everyone[np.arange(len(rows)) // _share(len(rows)), np.arange(len(rows))]
    numbers = np.ascontiguousarray(rows[:, :-_TOLD]).view(np.float64)
    return numbers, [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows[:, -_TOLD:]]


def _on_each_device(variables: Variables, copied: NamedSharding) -> Variables:
    """Return `variables` whole on each of this process's devices; without a copy where they are already."""
    leaves = jax.tree.leaves(variables)
    if all(not isinstance(x, jax.Array) or x.is_fully_addressable for x in leaves):
        return jax.device_put(variables, copied)
    if not all(x.is_fully_replicated for x in leaves):
        everywhere = NamedSharding(leaves[0].sharding.mesh, PartitionSpec())
        variables = jax.jit(_same, out_shardings=everywhere)(variables)  # one program, for all processes to run at once
    devices = list(copied.mesh.devices.flat)

    def local(x: jax.Array) -> jax.Array:
        here = {shard.device: shard.data for shard in x.addressable_shards}
        return jax.make_array_from_single_device_arrays(x.shape, copied, [here[device] for device in devices])

    return jax.tree.map(local, variables)


def _same(variables: Variables) -> Variables:
    return variables
