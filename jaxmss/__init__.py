"""Music source separation in JAX.

model = jaxmss.load("cws-vocals")          # a published name, a checkpoint directory, a run or a system
stems = model(mixture)                     # one segment: (b, c, t) -> (b, j, c, t)
stems = jaxmss.separate(model, waveform)   # a track of any length: (c, t) -> (j, c, t)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxmss.loading import load
    from jaxmss.options import Options
    from jaxmss.separator import Separator, separate
    from jaxmss.systems import Part, System

__all__ = ["Options", "Part", "Separator", "System", "load", "separate"]
__version__ = "0.1.0"

_HOMES = {
    "load": "jaxmss.loading",
    "Options": "jaxmss.options",
    "Part": "jaxmss.systems",
    "Separator": "jaxmss.separator",
    "separate": "jaxmss.separator",
    "System": "jaxmss.systems",
}


_MODULES = ("chunking", "evaluation", "masking", "models", "pqmf", "stft")


def __getattr__(name: str) -> Any:
    # JAX takes a second to start: it is imported when something that needs it is first asked for
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"jaxmss.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxmss' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])
