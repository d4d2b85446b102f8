"""The published way to run a network over a track."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def separate_track(network: Callable[[Tensor], Tensor], track: Tensor, segment: int, context: int) -> Tensor:
    """Track (b, c, t) -> (b, j * c, t) in consecutive segments, each run with context on both sides, of which only
    the segment itself is kept. `segment` and `context` are in samples (published: 10 s and 1.5 s).

    No context precedes the first segment, and none follows the end of the track, except that a track which fits one
    segment is run with zeros up to `segment + context`.
    """
    t = track.shape[-1]
    if t <= segment:
        return network(F.pad(track, (0, segment + context - t)))[..., :t]
    kept = []
    for start in range(0, t, segment):
        first = max(start - context, 0)
        estimate = network(track[..., first : min(start + segment + context, t)])
        kept.append(estimate[..., start - first :][..., :segment])
    return torch.cat(kept, dim=-1)
