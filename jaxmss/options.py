"""How a track is separated: one set of options for Python and for the command lines. Nothing here imports JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxmss.config import LONGEST, check

MOST = 1024  # shifts, or windows in a batch

_Seconds = Annotated[float | None, tyro.conf.arg(metavar="SECONDS")]


@dataclass(frozen=True)
class Options:
    """How a track is separated.

    Attributes:
      segment: seconds separated at a time, at most 600 (default: the model's).
      context: seconds that the model sees before and after a segment, at most 600 (default: the model's).
      overlap: share of a segment that is cross-faded with the next, 0 to 0.5.
      shifts: windows per segment, displaced at random by up to 0.5 s within the context, whose estimates are averaged.
      batch_size: windows that the model is given at once.
    """

    segment: _Seconds = None
    context: _Seconds = None
    overlap: float = 0.0
    shifts: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        segment = f"it must be above 0 s and at most {LONGEST:.0f} s"
        check(self.segment is None or 0 < self.segment <= LONGEST, "segment", self.segment, segment)
        context = f"it must be 0 to {LONGEST:.0f} s"
        check(self.context is None or 0 <= self.context <= LONGEST, "context", self.context, context)
        check(0 <= self.overlap <= 0.5, "overlap", self.overlap, "it must be 0 to 0.5")
        check(1 <= self.shifts <= MOST, "shifts", self.shifts, f"it must be 1 to {MOST}")
        check(self.shifts == 1 or self.context != 0, "shifts", self.shifts, "windows can only move within a context")
        check(1 <= self.batch_size <= MOST, "batch_size", self.batch_size, f"it must be 1 to {MOST}")


AS_PUBLISHED = Options()
OptionFlags = Annotated[Options, tyro.conf.arg(name="")]  # on a command line: --segment and so on, without a prefix
