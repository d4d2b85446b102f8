"""Models to evaluate: separate the mixture of a track."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxmss.audio.resampling import resample
from jaxmss.composed import ComposedSeparator
from jaxmss.config import to_json
from jaxmss.data.tracks import MIXTURE, Track
from jaxmss.errors import InputError
from jaxmss.evaluation.systems import Estimates, System
from jaxmss.loading import load, resolve
from jaxmss.options import Options
from jaxmss.separator import Model, separate


def model_system(checkpoint: str, options: Options, dtype: str, known: Sequence[str]) -> System:
    """Return the system of what `jaxmss.load` takes: a published name, a checkpoint directory, a training run, a file.

    Its name and identity tell the checkpoints of a run apart, and systems of other networks.

    Raises `InputError` for a checkpoint that cannot be used, and for one with stems other than those of the tracks,
    `known`.
    """
    exact = resolve(checkpoint)  # once: a run may go on meanwhile
    model = load(exact, dtype)
    unknown = [source for source in model.sources if source not in known]
    if unknown:
        raise InputError(
            f"{checkpoint} separates {', '.join(unknown)}, which the data lacks: it has {', '.join(known)}"
        )
    model.plan(model.sources, options)  # refuses what does not fit, before any work
    identity = {"checkpoint": exact, "options": vars(options), "dtype": dtype}
    if isinstance(model, ComposedSeparator):
        identity["system"] = to_json(model.system)
    device = jax.local_devices()[0].device_kind
    return System(
        Path(exact).name.removesuffix(".json"), identity, lambda track: _separate(model, options, track), device
    )


def _separate(model: Model, options: Options, track: Track) -> Estimates:
    """Separate at the model's rate, and return estimates at the track's."""
    stems, rate = track.read([MIXTURE])
    mixture = stems[MIXTURE]
    start = time.perf_counter()
    separated = separate(model, resample(mixture, rate, model.sample_rate), options=options)
    estimates = {
        source: resample(waveform, model.sample_rate, rate, mixture.shape[1])
        for source, waveform in zip(model.sources, separated, strict=True)
    }
    return Estimates(estimates, rate, time.perf_counter() - start)
