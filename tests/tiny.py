"""Tiny networks with random weights: they compile and run in a second or two."""

from __future__ import annotations

import functools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmss import models
from jaxmss.checkpoints import store
from jaxmss.loading import load
from jaxmss.separator import Separator
from jaxmss.typing import Variables

SEGMENT, CONTEXT = 44100, 11025  # samples


def save(directory: Path, architecture: str, **changes: Any) -> Path:
    """Write a checkpoint of a tiny variant of an architecture."""
    tiny = {"widths": (4,) * 6, "segment": SEGMENT / 44100, "context": CONTEXT / 44100}
    config = replace(models.architecture(architecture), **{**tiny, **changes})
    store.save(directory, config, drawn(config))
    return directory


def drawn(config: Any) -> Variables:
    """Return random variables for a network, drawn without compiling anything."""
    random = np.random.default_rng(0)

    def values(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(shape.shape) >= 4:  # a convolution: as loud out as in
            drawn = random.normal(scale=np.prod(shape.shape[-4:-1]) ** -0.5, size=shape.shape)
        else:
            drawn = random.uniform(0.5, 1.0, shape.shape)
        return drawn.astype(shape.dtype)

    return jax.tree.map(values, models.variable_shapes(config))


@functools.cache
def checkpoint(architecture: str) -> Path:
    """A checkpoint directory, kept until the tests end."""
    return save(Path(os.environ["JAXMSS_CACHE"]) / "tiny" / architecture, architecture)


@functools.cache
def model(architecture: str) -> Separator:
    """The model of `checkpoint`, compiled once for all tests."""
    return load(checkpoint(architecture))
