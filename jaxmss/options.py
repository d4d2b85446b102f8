"""How a track is separated: one set of options for Python and for the command lines. Nothing here imports JAX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxmss.config import LONGEST, check

MOST = 1024  # shifts, windows in a batch, or iterations

_Seconds = Annotated[float | None, tyro.conf.arg(metavar="SECONDS")]


@dataclass(frozen=True)
class Options:
    """How a track is separated.

    Attributes:
      segment: seconds separated at a time, at most 600 (default: the model's).
      context: seconds that the model sees before and after a segment, at most 600 (default: the model's).
      overlap: share of a segment that is cross-faded with the next, 0 to 0.5 (default: the model's).
      shifts: how many times a track is cut, at random by up to 0.5 s earlier, for estimates that are averaged (default:
        the model's, which is 1 for a network alone).
      batch_size: windows that a network is given at once.
      wiener: iterations of multichannel Wiener filtering of the stems together.
      consistent: give all stems of the mixture an equal share of what they lack of it, so that they sum to it.
    """

    segment: _Seconds = None
    context: _Seconds = None
    overlap: Annotated[float | None, tyro.conf.arg(metavar="SHARE")] = None
    shifts: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    batch_size: int = 1
    wiener: int = 0
    consistent: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    def __post_init__(self) -> None:
        segment = f"it must be above 0 s and at most {LONGEST:.0f} s"
        check(self.segment is None or 0 < self.segment <= LONGEST, "segment", self.segment, segment)
        context = f"it must be 0 to {LONGEST:.0f} s"
        check(self.context is None or 0 <= self.context <= LONGEST, "context", self.context, context)
        check(self.overlap is None or 0 <= self.overlap <= 0.5, "overlap", self.overlap, "it must be 0 to 0.5")
        check(self.shifts is None or 1 <= self.shifts <= MOST, "shifts", self.shifts, f"it must be 1 to {MOST}")
        check(1 <= self.batch_size <= MOST, "batch_size", self.batch_size, f"it must be 1 to {MOST}")
        check(0 <= self.wiener <= MOST, "wiener", self.wiener, f"it must be 0 to {MOST}")


AS_PUBLISHED = Options()
OptionFlags = Annotated[Options, tyro.conf.arg(name="")]  # on a command line: --segment and so on, without a prefix
