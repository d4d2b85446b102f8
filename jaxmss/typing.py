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

Arrays are annotated as ``Float[Array, "b c t"]``; ``*b`` stands for any number of leading axes.
The tests check every annotation at run time.
"""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import Complex, Float, Int

PyTree = Any
Variables = dict[str, Any]  # what flax's `init` returns: {"params": ..., "batch_stats": ...}

__all__ = ["Array", "Complex", "Float", "Int", "PyTree", "Variables"]
