"""The axis letters and array aliases of the whole project.

========  ==========================================================
letter    axis
========  ==========================================================
``b``     batch
``j``     source (stem)
``c``     audio channel
``t``     sample at the audio rate
``s``     subband
``k``     sample of a subband (``t / s``)
``f``     frequency bin
``n``     STFT frame
``h``     feature of the network
``m``     map: magnitude mask, phase real, phase imaginary, residual
========  ==========================================================

Arrays are annotated as ``Float[Array, "b c t"]``; ``*b`` stands for any number of leading axes, ``_`` for an axis whose
size differs from array to array, such as the blocks of a stream.
The tests check every annotation at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Complex, Float, Int

if TYPE_CHECKING:
    Array: TypeAlias = jax.Array
else:
    Array = jax.Array | np.ndarray  # JAX's functions take either and return the former
PyTree = Any
Variables = dict[str, Any]  # what flax's `init` returns: {"params": ..., "batch_stats": ...}

__all__ = ["Array", "Complex", "DTypeLike", "Float", "Int", "PyTree", "Variables"]
