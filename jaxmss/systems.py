"""Systems: which networks make which stems, out of the mixture or of what others leave of it. Nothing imports JAX.

A system is a value. Written as JSON it is what ``--model`` and ``--ckpt`` take beside published names::

    {"parts": [
      {"network": "cws-vocals", "stems": ["vocals"]},
      {"network": "cws-joint", "stems": ["other"], "minus": ["vocals"]}
    ]}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jaxmss.config import check, from_json
from jaxmss.errors import InputError, suggest
from jaxmss.options import Options

HEAVIEST = 1_000_000  # weight


@dataclass(frozen=True)
class Part:
    """What one network gives to a system.

    A part that subtracts stems hears each window of the mixture minus those stems of the very same window, context
    included; so it is cut as the parts that it depends on are, and has no segment of its own. Those must be cut alike,
    and share the windows that suit the first of them.

    Attributes:
      network: published name, checkpoint directory or training run, as `jaxmss.load` takes them.
      stems: that are taken from it.
      weights: of those stems in the average over all parts that give them (default: 1 each).
      minus: stems of the system that are subtracted from the mixture before the network hears it.
      segment: seconds separated at a time (this and the following by default the network's own).
      context: seconds that the network sees before and after a segment.
      overlap: share of a segment that is cross-faded with the next.
      shifts: how many times the track is cut, at random places, for estimates that are averaged.
      normalize_track: whether the network hears the track at mean 0 and deviation 1, measured on the mixture.
    """

    network: str
    stems: tuple[str, ...]
    weights: tuple[float, ...] = ()
    minus: tuple[str, ...] = ()
    segment: float | None = None
    context: float | None = None
    overlap: float | None = None
    shifts: int | None = None
    normalize_track: bool | None = None

    def __post_init__(self) -> None:
        check(bool(self.network), "network", self.network, "name a published model, a checkpoint or a run")
        check(bool(self.stems), "stems", self.stems, f"name what {self.network} gives")
        for name in ("stems", "minus"):
            check(
                len(set(getattr(self, name))) == len(getattr(self, name)), name, getattr(self, name), "name each once"
            )
        fits = not self.weights or len(self.weights) == len(self.stems)
        check(fits, "weights", self.weights, f"give one for each of {', '.join(self.stems)}")
        fits = all(0 < weight <= HEAVIEST for weight in self.weights)
        remedy = f"they must be above 0 and at most {HEAVIEST:,}; leave out a stem that is not wanted"
        check(fits, "weights", self.weights, remedy)
        own = self.options(Options())  # checks them
        if self.minus:
            for name in ("segment", "context", "overlap", "shifts"):
                value = getattr(own, name)
                check(value is None, name, value, f"{self.network} is cut as what it subtracts is; give it there")

    def weight(self, stem: str) -> float:
        """Return the weight of one of the stems."""
        return self.weights[self.stems.index(stem)] if self.weights else 1.0

    def options(self, given: Options) -> Options:
        """Return `given` options with the part's own where they leave the choice."""
        own = {name: getattr(self, name) for name in ("segment", "context", "overlap", "shifts")}
        return replace(given, **{name: value for name, value in own.items() if getattr(given, name) is None})


@dataclass(frozen=True)
class System:
    """Networks that separate a mixture together.

    Attributes:
      parts: what each network gives; a stem that several of them give is their weighted average.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        check(bool(self.parts), "parts", self.parts, "name at least one network")
        for part in self.parts:
            for stem in part.minus:
                if stem not in self.sources:
                    raise InputError(f"{part.network} subtracts {stem!r}, no stem{suggest(stem, self.sources)}")
        in_order(self.parts)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stems, in the order in which the parts name them."""
        return tuple(dict.fromkeys(stem for part in self.parts for stem in part.stems))


def needed(system: System, sources: Collection[str]) -> tuple[Part, ...]:
    """Return the parts, with those of their stems, without which `sources` cannot be made; each network once.

    Parts of one network that hear the same are one, with the stems of all of them.
    """
    wanted = set(sources)
    while True:
        parts = [part for part in system.parts if wanted & set(part.stems)]
        further = wanted.union(*(part.minus for part in parts))
        if further == wanted:
            break
        wanted = further
    runs: dict[tuple, tuple[Part, dict[str, float]]] = {}
    for part in parts:
        heard = (part.network, frozenset(part.minus), part.options(Options()), part.normalize_track)
        _, weights = runs.setdefault(heard, (part, {}))
        for stem in part.stems:
            if stem in wanted:
                weights[stem] = weights.get(stem, 0.0) + part.weight(stem)
    return tuple(
        replace(part, stems=tuple(weights), weights=tuple(weights.values())) for part, weights in runs.values()
    )


def linked(parts: Iterable[Part]) -> list[tuple[Part, ...]]:
    """Return groups of parts that share windows, for some subtract what others give; each in the order to run in."""
    groups: list[tuple[Part, ...]] = []
    for part in in_order(parts):
        near = [group for group in groups if any(set(part.minus) & set(other.stems) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append((*(other for group in near for other in group), part))
    return groups


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Return parts so that each comes after those that give what it subtracts; raise `InputError` for a circle."""
    waiting, ordered = list(parts), list[Part]()
    while waiting:
        lacking = {stem for part in waiting for stem in part.stems}
        ready = [part for part in waiting if not lacking & set(part.minus)]
        if not ready:
            circle = ", ".join(f"{part.network} minus {' and '.join(part.minus)}" for part in waiting)
            raise InputError(f"The parts subtract one another's stems in a circle: {circle}; let one hear the mixture")
        ordered += ready
        waiting = [part for part in waiting if part not in ready]
    return ordered


def read_system(file: Path) -> System:
    """Read a system from a JSON file; a network that is a path is found from the file's folder.

    Raises `InputError` for a file that cannot be read or is no system.
    """
    try:
        content = json.loads(file.read_text("utf-8-sig"), object_pairs_hook=_once)
        system: System = from_json(System, content)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a system in JSON: {error}") from None
    return system


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make the dict of a JSON object; raise `InputError` where a name comes twice, of which one would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{twice!r} stands twice in one object; keep one of them")
    return content
