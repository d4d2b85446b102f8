"""What is done to the stems of a track together, by choice: Wiener filtering, and giving them what they lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxmss.chunking import Block, Chunking, Stems, cut, join
from jaxmss.config import Windows
from jaxmss.errors import InputError
from jaxmss.options import Options
from jaxmss.typing import Array, Float
from jaxmss.wiener import filter_stems

WINDOW, OVERLAP = 10, 2  # seconds: a model of where sources are is made for each window, and neighbours are cross-faded
_PARTS = ("vocals", "bass", "drums", "other")  # of a song; some of them alone are no mixture


def check_complete(sources: tuple[str, ...], known: tuple[str, ...], options: Options) -> None:
    """Raise `InputError` where `options` treat the stems of a mixture together and `sources` are not all of them."""
    asked = [name for name in ("wiener", "consistent") if getattr(options, name)]
    if not asked:
        return
    left = [source for source in known if source not in sources]
    if set(known) < set(_PARTS):
        left += [part for part in _PARTS if part not in known]
    if left or len(known) == 1:
        beside = f" lack {', '.join(left)} and" if left else ""
        raise InputError(
            f"{asked[0]!r} is for all stems of a mixture together; {', '.join(sources)}{beside} do not sum to it: "
            "choose all stems of a model that makes them all"
        )


def distribute_residual(stems: Float[np.ndarray, "j c t"], mixture: Float[np.ndarray, "c t"]) -> Stems:
    """Give each stem an equal share of what all of them lack of `mixture`, so that they sum to it.

    That is the nearest set of stems that does: mixture consistency (Wisdom et al., ICASSP 2019).
    """
    return stems + (mixture - stems.sum(0)) / np.float32(len(stems))


def filter_blocks(
    stems: Iterable[Stems], mixture: Iterator[Block], sample_rate: int, iterations: int
) -> Iterator[Stems]:
    """Filter a stream of stems by `jaxmss.wiener.filter_stems`, beside the stream of their mixture."""
    window = WINDOW * sample_rate
    chunking = Chunking(window, overlap=OVERLAP * sample_rate, windows=Windows(window))
    segments = cut(_beside(stems, mixture), chunking)
    return join(((segment, _filtered(segment.audio, iterations)) for segment in segments), chunking)


def _beside(stems: Iterable[Stems], mixture: Iterator[Block]) -> Iterator[Float[np.ndarray, "_ c _"]]:
    """Yield each block of stems with that of the mixture above it."""
    held = None
    for block in stems:
        held = next(mixture) if held is None else held
        while held.shape[-1] < block.shape[-1]:
            held = np.concatenate([held, next(mixture)], axis=-1)
        yield np.concatenate([held[None, :, : block.shape[-1]], block])
        held = held[:, block.shape[-1] :]


@partial(jax.jit, static_argnames="iterations")
def _filter(window: Float[Array, "_ c t"], iterations: int) -> Float[Array, "j c t"]:
    return filter_stems(window[1:], window[0], iterations)


def _filtered(window: Float[np.ndarray, "_ c t"], iterations: int) -> Stems:
    return np.asarray(_filter(jnp.asarray(window), iterations))
