"""Several networks that separate together: a `System` whose networks are at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxmss.cascade import Cascade, Network, Stage, cascade_of
from jaxmss.errors import InputError, suggest
from jaxmss.options import Options
from jaxmss.refinement import check_complete
from jaxmss.separator import choose, chunking_of
from jaxmss.systems import Part, System, linked, needed


class Facts(NamedTuple):
    """What is known of a network before it is loaded: its stems, if they are, its rate in Hz and its channels."""

    sources: tuple[str, ...] | None
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class ComposedSeparator:
    """A system of networks, which `jaxmss.separate` takes as it does a `Separator`.

    Raises `InputError` for stems that a network does not have, and for networks of different rates or channels, as soon
    as that is known.

    Attributes:
      system: which network gives which stems.
      facts: of each network, by the name that the system has for it.
      network: gives a network by its name; it is asked for those alone that the wanted stems need.
    """

    system: System
    facts: Mapping[str, Facts]
    network: Callable[[str], Network]

    def __post_init__(self) -> None:
        for part in self.system.parts:
            self._check(part, self.facts[part.network])

    def _check(self, part: Part, facts: Facts) -> None:
        for stem in part.stems:
            if facts.sources is not None and stem not in facts.sources:
                raise InputError(f"{part.network} has no stem {stem!r}{suggest(stem, facts.sources)}")
        if (facts.sample_rate, facts.channels) != (self.sample_rate, self.channels):
            raise InputError(
                f"{self.system.parts[0].network} takes {self.channels} channels at {self.sample_rate} Hz and "
                f"{part.network} {facts.channels} at {facts.sample_rate} Hz; only networks of one rate and channel "
                "count separate together"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the stems, in output order."""
        return self.system.sources

    @property
    def sample_rate(self) -> int:
        """Rate of the audio that the networks take, in Hz."""
        return self.facts[self.system.parts[0].network].sample_rate

    @property
    def channels(self) -> int:
        """Number of channels that the networks take."""
        return self.facts[self.system.parts[0].network].channels

    def chosen(self, sources: Iterable[str] | None) -> tuple[str, ...]:
        """Return `sources` as a tuple, all of the system's for None; raise `InputError` for an unknown one
        or one named twice."""
        return choose(sources, self.sources)

    def plan(self, sources: tuple[str, ...], options: Options) -> tuple[Cascade, ...]:
        """Return a cascade for each group of linked networks that `sources` need.

        What `options` leave open is as the parts of the system say, and else as the networks do. Raises `InputError`
        for options that do not fit, and where networks that share windows are to be cut differently.
        """
        check_complete(sources, self.sources, options)
        return tuple(self._cascade(group, sources, options) for group in linked(needed(self.system, sources)))

    def _cascade(self, group: tuple[Part, ...], sources: tuple[str, ...], options: Options) -> Cascade:
        networks = [self._loaded(part) for part in group]
        roots = [(net, part.options(options)) for part, net in zip(group, networks, strict=True) if not part.minus]
        cut = [(chunking_of(net.config, own), own.shifts or 1) for net, own in roots]
        if len({(replace(chunking, windows=None), shifts) for chunking, shifts in cut}) > 1:
            names = " and ".join(part.network for part in group if not part.minus)
            raise InputError(
                f"The stems of {names} are subtracted together, but cut differently; give these parts the same "
                "segment, context, overlap and shifts"
            )
        stages = [_stage(part, network) for part, network in zip(group, networks, strict=True)]
        wanted = tuple(stem for stem in sources if any(stem in part.stems for part in group))
        return cascade_of(stages, wanted, cut[0][0], roots[0][1])  # in the windows that suit the first

    def _loaded(self, part: Part) -> Network:
        network = self.network(part.network)
        self._check(part, Facts(network.config.sources, network.config.sample_rate, network.config.channels))
        return network


def _stage(part: Part, network: Network) -> Stage:
    normalized = part.normalize_track
    if normalized is None:
        normalized = getattr(network.config, "normalize_track", False)
    weights = tuple(part.weight(stem) for stem in part.stems)
    return Stage(network, part.stems, weights, part.minus, normalized)
