"""Models to evaluate: separate the mixture of a track."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import jax
import numpy as np

from jaxmss.audio.resampling import resample
from jaxmss.cascade import Cascade
from jaxmss.composed import ComposedSeparator
from jaxmss.config import to_json
from jaxmss.data.tracks import MIXTURE, Track
from jaxmss.errors import InputError
from jaxmss.evaluation.systems import Estimates, System
from jaxmss.loading import load, resolve, summed
from jaxmss.options import Options
from jaxmss.separator import Model, Separator, separate


def model_system(checkpoint: str, options: Options, dtype: str, known: Sequence[str]) -> System:
    """Return the system of what `jaxmss.load` takes: a published name, a checkpoint directory, a training run, a file.

    Its name and identity tell the checkpoints of a run apart, and systems of other networks.

    What a training run learned to separate as the sum of stems is scored as that. Raises `InputError` for a checkpoint
    that cannot be used, and for one with stems other than those of the tracks, `known`.
    """
    exact = resolve(checkpoint)  # once: a run may go on meanwhile
    model = load(exact, dtype)
    trained = {source: stems for source, stems in summed(exact).items() if source in model.sources}
    sums = {source: stems for source, stems in trained.items() if stems != (source,) and set(stems) <= set(known)}
    unknown = [source for source in model.sources if source not in (*known, *sums)]
    if unknown:
        raise InputError(
            f"{checkpoint} separates {', '.join(unknown)}, which the data lacks: it has {', '.join(known)}; add the "
            "stem's file to each track, or separate with `jaxmss separate` and score by --estimates what there is"
        )
    weights = _digest(model.plan(model.sources, options))  # which refuses what does not fit, before any work
    identity = {"checkpoint": exact, "weights": weights, "options": vars(options), "dtype": dtype}
    if isinstance(model, ComposedSeparator):
        identity["system"] = to_json(model.system)
    if sums:
        identity["sums"] = {source: list(stems) for source, stems in sums.items()}  # as JSON gives it back
    return System(
        Path(exact).name.removesuffix(".json"),
        identity,
        lambda track: _separate(model, options, track),
        jax.local_devices()[0].device_kind,
        sums=sums,
    )


def _digest(cascades: Iterable[Cascade]) -> str:
    """Return a digest of the weights of all networks: a checkpoint may be replaced by another of its name."""
    digest = hashlib.blake2b(digest_size=16)
    for network in (cast(Separator, stage.network) for cascade in cascades for stage in cascade.stages):
        for path, leaf in jax.tree.leaves_with_path(network.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


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
