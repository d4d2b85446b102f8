"""Several networks together, against loops over a whole track in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from golden_weights import GOLDEN, wave
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import RATE, CWSLike, DemucsLike, StandIn, compose, in_blocks

from jaxmss.composed import ComposedSeparator
from jaxmss.config import Windows
from jaxmss.errors import InputError
from jaxmss.levels import measure
from jaxmss.options import Options
from jaxmss.separator import separate, separate_blocks
from jaxmss.systems import Part, System

BYTEMSS = System(
    (
        Part("v", ("vocals",)),
        Part("t", ("drums", "bass"), overlap=0.15),
        Part("h", ("bass",), (3.0,), overlap=0.15),
        Part("i", ("other",), minus=("vocals",)),
    )
)


def networks(segment: int = 97, context: int = 20) -> dict[str, StandIn]:
    return {
        "v": StandIn(CWSLike(("vocals",), segment / RATE, context / RATE)),
        "i": StandIn(CWSLike(("bass", "drums", "other"), 0.5, 0.5)),
        "t": StandIn(DemucsLike(("drums", "bass"), (segment + 14) / RATE, 0.0)),
        "h": StandIn(DemucsLike(("drums", "bass"), 0.4, 0.05, windows=Windows(1))),
    }


# The reference: plain loops over tracks in memory, in float64 where sums are taken.


def overlap_add(t: int, segment: int, share: float, run: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Sum what `run` makes of each segment (start, kept), weighed by triangles, over the sum of the weights."""
    triangle = np.minimum(np.arange(1, segment + 1), np.arange(segment, 0, -1)) if share else np.ones(segment)
    sums, weights = 0.0, np.zeros(t)
    for start in range(0, t, int((1 - share) * segment)):
        kept = min(segment, t - start)
        estimate = np.zeros((*(made := run(start, kept)).shape[:-1], t))
        estimate[..., start : start + kept] = made * triangle[:kept]
        weights[start : start + kept] += triangle[:kept]
        sums = sums + estimate
    return sums / weights


def cws_like(track: np.ndarray, segment: int, context: int, share: float, run: Callable[..., np.ndarray]) -> np.ndarray:
    """The scheme of CWS-PResUNet; `run` maps a window and its length to stems."""
    t = track.shape[1]

    def one(start: int, kept: int) -> np.ndarray:
        first, after = max(start - context, 0), min(start + kept + context, t)
        window = np.zeros((2, segment + 2 * context), np.float32)
        window[:, : after - first] = track[:, first:after]
        length = segment + context if kept == t else after - first
        return run(window, length)[..., start - first :][..., :kept]

    return overlap_add(t, segment, share, one)


def demucs_like(
    track: np.ndarray, segment: int, context: int, windows: range, share: float, run: Callable[..., np.ndarray]
) -> np.ndarray:
    """The scheme of Demucs, on the track at mean 0 and deviation 1; the network takes inputs of those `windows`."""
    t = track.shape[1]
    mono = track.mean(0, dtype=np.float64)
    mean, deviation = mono.mean(), (mono.std(ddof=1) if t > 1 else 0.0) + 1e-8
    far = windows[-1]
    padded = np.pad((track - mean) / deviation, ((0, 0), (far, far))).astype(np.float32)

    def one(start: int, kept: int) -> np.ndarray:
        window = next(length for length in windows if length >= kept + 2 * context)
        first = start - (window - kept) // 2
        stems = run(padded[:, far + first :][:, :window], window)
        return stems[..., start - first :][..., :kept]

    return overlap_add(t, segment, share, one) * deviation + mean


def reference(track: np.ndarray, nets: dict[str, StandIn], segment: int, context: int) -> dict[str, np.ndarray]:
    def vocals_and_other(window: np.ndarray, length: int) -> np.ndarray:
        vocals = nets["v"].one(window, ("vocals",), length)[0]
        return np.stack([vocals, nets["i"].one(window - vocals, ("other",), length)[0]])

    vocals, other = cws_like(track, segment, context, 0.0, vocals_and_other)
    time = demucs_like(
        track, segment + 14, 0, range(30, 300, 7), 0.15, lambda window, n: nets["t"].one(window, ("drums", "bass"), n)
    )
    [hybrid] = demucs_like(track, 40, 5, range(1, 60), 0.15, lambda window, n: nets["h"].one(window, ("bass",), n))
    return {"vocals": vocals, "drums": time[0], "bass": time[1] / 4 + hybrid * 3 / 4, "other": other}


@settings(deadline=None, max_examples=60)
@given(
    t=st.integers(1, 700),
    segment=st.integers(20, 120),
    context=st.integers(0, 60),
    block=st.integers(1, 300),
    batch_size=st.integers(1, 3),
)
def test_a_system_gives_what_loops_over_the_track_give(t, segment, context, block, batch_size):
    nets = networks(segment, context)
    model = compose(BYTEMSS, nets)
    track = wave(t, (2, t)) + np.float32(0.02)
    level = measure(in_blocks(track, block))
    options = Options(batch_size=batch_size)
    blocks = list(separate_blocks(model, in_blocks(track, block), model.sources, options, level))
    stems = dict(zip(model.sources, np.concatenate(blocks, axis=-1), strict=True))
    for stem, expected in reference(track, nets, segment, context).items():
        np.testing.assert_allclose(stems[stem], expected, rtol=0, atol=2e-6, err_msg=stem)


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.parametrize("context", [0, 20])
@pytest.mark.parametrize("near", [-1, 0, 1])
def test_lengths_around_every_edge(segments, context, near):
    for edge in (0, context, -context):
        t = segments * 97 + edge + near
        nets = networks(context=context)
        track = wave(t, (2, t))
        stems = separate(compose(BYTEMSS, nets), track)
        expected = reference(track, nets, 97, context)
        np.testing.assert_allclose(stems, [expected[stem] for stem in BYTEMSS.sources], rtol=0, atol=2e-6)


class Ramp(StandIn):
    """The stand-ins of the golden data: `lengths` linearly spaced numbers from `first` to `last`."""

    def one(self, window: np.ndarray, sources: tuple[str, ...], length: int) -> np.ndarray:
        first, last = (0, 1) if sources == ("vocals",) else (1, 0.5)
        ramp = np.pad(np.linspace(first, last, length), (0, window.shape[-1] - length))
        return (window * ramp)[None].astype(np.float32)


@pytest.mark.parametrize("t", [900, 4000, 4321])
def test_vocals_are_excluded_as_published(t):
    system = System((Part("v", ("vocals",)), Part("i", ("other",), minus=("vocals",))))
    config = CWSLike(("vocals",), 10.0, 1.5)
    model = compose(system, {"v": Ramp(config), "i": Ramp(replace(config, sources=("other",)))})
    vocals, other = separate(model, wave(7, (1, 2, t))[0])
    with np.load(GOLDEN / "vocals-excluded.npz") as golden:
        np.testing.assert_allclose(vocals[None], golden[f"vocals_{t}"], rtol=0, atol=1e-7)
        np.testing.assert_allclose(other[None], golden[f"other_{t}"], rtol=0, atol=1e-7)


def test_overlap_holds_for_linked_networks_too():
    system = System((Part("v", ("vocals",), overlap=0.5), Part("i", ("drums", "other"), minus=("vocals",))))
    nets = networks(segment=96)
    track = wave(3, (2, 500))

    def both(window: np.ndarray, length: int) -> np.ndarray:
        vocals = nets["v"].one(window, ("vocals",), length)
        return np.concatenate([vocals, nets["i"].one(window - vocals[0], ("drums", "other"), length)])

    stems = separate(compose(system, nets), track)
    np.testing.assert_allclose(stems, cws_like(track, 96, 20, 0.5, both), rtol=0, atol=2e-6)


def test_what_is_left_is_heard_at_the_level_of_the_track_by_a_network_that_wants_that():
    system = System((Part("v", ("vocals",)), Part("h", ("bass",), minus=("vocals",))))
    nets = networks()
    track = wave(4, (2, 300)) * np.float32(0.01) + np.float32(0.003)
    level = measure([track])

    def both(window: np.ndarray, length: int) -> np.ndarray:
        vocals = nets["v"].one(window, ("vocals",), length)
        inside = np.arange(window.shape[1]) < length
        left = (window - vocals[0] - level.mean * inside) / level.scale
        bass = nets["h"].one(left.astype(np.float32), ("bass",), length) * level.scale + level.mean
        return np.concatenate([vocals, bass])

    stems = separate(compose(system, nets), track)
    np.testing.assert_allclose(stems, cws_like(track, 97, 20, 0.0, both), rtol=0, atol=2e-8)


def test_subtracted_stems_are_averages_and_may_be_chained():
    system = System(
        (
            Part("i", ("drums",), minus=("vocals", "bass")),
            Part("v", ("vocals",), (3.0,), segment=0.4, context=0.1),
            Part("w", ("vocals",), segment=0.4, context=0.1),
            Part("j", ("bass",), minus=("vocals",)),
        )
    )
    cws = CWSLike(("drums", "bass", "vocals"), 1.0, 0.2)
    nets = {name: StandIn(replace(cws, segment=1.0 + i)) for i, name in enumerate("ivwj")}
    nets["w"] = StandIn(replace(cws, sources=("vocals", "bass")))
    track = wave(5, (2, 333))

    def run(window: np.ndarray, length: int) -> np.ndarray:
        vocals = 0.75 * nets["v"].one(window, ("vocals",), length) + 0.25 * nets["w"].one(window, ("vocals",), length)
        bass = nets["j"].one((window - vocals[0]).astype(np.float32), ("bass",), length)
        left = (window - vocals[0] - bass[0]).astype(np.float32)
        return np.concatenate([nets["i"].one(left, ("drums",), length), vocals, bass])

    model = compose(system, nets)
    assert model.sources == ("drums", "vocals", "bass")
    np.testing.assert_allclose(separate(model, track), cws_like(track, 40, 10, 0.0, run), rtol=0, atol=2e-6)


def test_networks_of_different_kinds_share_the_windows_of_the_first():
    cut = {"segment": 97 / RATE, "context": 20 / RATE, "overlap": 0.0}
    parts = Part("v", ("vocals",)), Part("t", ("bass",), **cut), Part("i", ("other",), minus=("vocals", "bass"))
    nets = networks()
    track = wave(6, (2, 333)) + np.float32(0.02)
    level = measure([track])

    def run(window: np.ndarray, length: int) -> np.ndarray:
        vocals = nets["v"].one(window, ("vocals",), length)
        inside = np.arange(window.shape[1]) < min(length, track.shape[1])
        normal = (window - level.mean * inside) / level.scale
        bass = nets["t"].one(normal.astype(np.float32), ("bass",), length) * level.scale + level.mean
        left = (window - vocals[0] - bass[0]).astype(np.float32)
        return np.concatenate([vocals, bass, nets["i"].one(left, ("other",), length)])

    stems = separate(compose(System(parts), nets), track)
    np.testing.assert_allclose(stems, cws_like(track, 97, 20, 0.0, run), rtol=0, atol=2e-6)
    [cascade] = compose(System((parts[1], parts[0], parts[2])), nets).plan(("other",), Options())
    assert cascade.chunking.windows == nets["t"].config.windows


def test_shifts_of_a_part_cut_the_track_where_it_begins_earlier():
    system = System((Part("t", ("bass",), shifts=3, overlap=0.25),))
    nets = networks(segment=86)  # segments of 100 samples
    track = wave(6, (2, 450))
    delays = np.random.default_rng(0).integers(0, RATE // 2 + 1, 3)
    level = measure([track])
    normal = ((track - level.mean) / level.scale).astype(np.float32)

    def run(delay: int) -> np.ndarray:
        padded = np.pad(normal, ((0, 0), (300 + delay, 300)))

        def one(start: int, kept: int) -> np.ndarray:
            length = next(n for n in range(30, 300, 7) if n >= kept)
            first = start - (length - kept) // 2
            window = padded[:, 300 + first :][:, :length]
            return nets["t"].one(window, ("bass",), length)[..., start - first :][..., :kept]

        return overlap_add(450 + delay, 100, 0.25, one)[..., delay:] * level.scale + level.mean

    expected = np.mean([run(delay) for delay in delays], axis=0)
    stems = separate(compose(system, nets), track)
    np.testing.assert_allclose(stems, expected, rtol=0, atol=2e-6)


class TorchStandIn(torch.nn.Module):
    """A stand-in for the package demucs."""

    samplerate, audio_channels = RATE, 2

    def __init__(self, network: StandIn):
        super().__init__()
        self.network = network
        self.sources, self.segment = network.config.sources, network.config.segment
        self.somewhere = torch.nn.Parameter(torch.zeros(()))

    def valid_length(self, length: int) -> int:
        return next(n for n in range(30, 300, 7) if n >= length)

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.network(mix.numpy(), self.sources, np.full(len(mix), mix.shape[-1])))


@pytest.mark.parametrize("t", [1, 90, 91, 120, 121, 500])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_bag_gives_what_the_package_demucs_gives(t, overlap):
    config = DemucsLike(("drums", "bass"), 1.2, 0.0)
    nets = {"a": StandIn(config), "b": StandIn(replace(config, segment=0.8))}
    system = System((Part("a", ("drums", "bass"), (1.0, 3.0), segment=1.2), Part("b", ("bass",), segment=1.2)))
    track = wave(t, (2, t)) + np.float32(0.02)
    bag = BagOfModels([TorchStandIn(net) for net in nets.values()], [[1.0, 3.0], [0.0, 1.0]], segment=1.2)
    level = measure([track])
    normal = torch.from_numpy((track - np.float32(level.mean)) / np.float32(level.scale))[None]
    expected = apply_model(bag, normal, shifts=0, overlap=overlap)[0].numpy() * level.scale + level.mean
    stems = separate(compose(system, nets), track, options=Options(overlap=overlap))
    np.testing.assert_allclose(stems, expected, rtol=0, atol=1e-6)


# no more than is needed


def test_only_what_the_stems_need_is_loaded_and_run():
    nets, asked = networks(), list[str]()
    model = compose(BYTEMSS, nets, asked)
    track = wave(8, (2, 300))
    everything = dict(zip(model.sources, separate(model, track), strict=True))
    for wanted, used in (
        (["vocals"], {"v": ("vocals",)}),
        (["other"], {"v": ("vocals",), "i": ("other",)}),
        (["bass", "vocals"], {"v": ("vocals",), "t": ("bass",), "h": ("bass",)}),
        (["drums"], {"t": ("drums",)}),
    ):
        asked.clear()
        for net in nets.values():
            net.calls.clear()
        stems = separate(model, track, wanted)
        assert set(asked) == set(used)
        assert {name: set(net.calls) for name, net in nets.items() if net.calls} == {n: {s} for n, s in used.items()}
        np.testing.assert_allclose(stems, [everything[stem] for stem in wanted], rtol=0, atol=1e-7)


def test_a_network_of_two_stems_runs_once_a_window():
    nets = networks(segment=100)
    separate(compose(System((Part("i", ("bass",)), Part("i", ("other",)))), nets), wave(9, (2, 400)))
    assert nets["i"].calls == [("bass", "other")] * 8


def test_a_level_is_measured_only_for_networks_that_want_it():
    model = compose(BYTEMSS, networks())
    track = wave(10, (2, 100))
    list(separate_blocks(model, [track], ("vocals", "other"), Options()))
    with pytest.raises(ValueError, match="measure its level first"):
        list(separate_blocks(model, [track], ("vocals", "bass"), Options()))
    forced = System((replace(BYTEMSS.parts[1], normalize_track=False), BYTEMSS.parts[0]))
    list(separate_blocks(compose(forced, networks()), [track], ("drums", "bass"), Options()))


def test_a_track_of_any_length_takes_the_memory_of_a_few_segments():
    longest = 0

    def endless(count: int) -> Iterator[np.ndarray]:
        nonlocal longest
        for i in range(count):
            longest = max(longest, i * RATE - done)
            yield wave(i % 7, (2, RATE))

    done = 0
    stems = separate_blocks(compose(BYTEMSS, networks()), endless(300), BYTEMSS.sources, Options(), measure(endless(3)))
    for block in stems:
        done += block.shape[-1]
        assert block.shape[-1] <= 2 * RATE
    assert done == 300 * RATE
    assert longest <= 8 * RATE  # two segments with what is read ahead


# what does not fit together


def test_options_go_before_those_of_the_parts():
    nets = networks()
    track = wave(11, (2, 400))
    [vocals, *_] = separate(compose(BYTEMSS, nets), track, options=Options(segment=0.6, context=0.3, overlap=0.5))
    [expected] = cws_like(track, 60, 30, 0.5, lambda window, n: nets["v"].one(window, ("vocals",), n))
    np.testing.assert_allclose(vocals, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        (Part("v", ("vocal",)), {}, "v has no stem 'vocal'; did you mean 'vocals'"),
        (Part("i", ("drum",)), {}, "i has no stem 'drum'; did you mean 'drums'"),
        (
            Part("i", ("bass",)),
            {"sample_rate": 48000},
            "h takes 2 channels at 100 Hz and i 2 at 48000 Hz; only networks",
        ),
        (Part("i", ("bass",)), {"channels": 1}, "h takes 2 channels at 100 Hz and i 1 at 100 Hz; only networks"),
    ],
)
def test_networks_that_do_not_fit_are_refused_in_a_line(part, changes, told):
    nets = networks()
    nets["i"] = StandIn(replace(nets["i"].config, **changes))
    with pytest.raises(InputError, match=re.escape(told)):
        compose(System((Part("h", ("drums",)), part)), nets)


def test_a_network_that_is_known_only_when_it_is_loaded_is_refused_then():
    nets = networks()
    model = compose(BYTEMSS, nets)
    unknown = ComposedSeparator(
        model.system, {**model.facts, "i": model.facts["i"]._replace(sources=None)}, model.network
    )
    nets["i"] = StandIn(replace(nets["i"].config, sources=("piano",)))
    assert separate(unknown, wave(1, (2, 9)), ["vocals"]).shape == (1, 2, 9)
    with pytest.raises(InputError, match="i has no stem 'other'; choose from piano"):
        separate(unknown, wave(1, (2, 9)), ["other"])


@dataclass(frozen=True)
class TransformerLike(DemucsLike):
    """It was trained on segments of its own length."""

    transformer: bool = True


def test_a_transformer_that_subtracts_hears_no_more_at_once_than_in_training():
    nets = networks()
    nets["i"] = StandIn(TransformerLike(("other",), 0.5, 0.0))
    model = compose(System((Part("v", ("vocals",)), Part("i", ("other",), minus=("vocals",)))), nets)
    with pytest.raises(InputError, match=r"'segment' \(=0\.97\) cannot be used: .* at most 0\.5 s"):
        model.plan(("other",), Options())
    assert model.plan(("vocals",), Options())
    assert separate(model, wave(1, (2, 99)), options=Options(segment=0.3, context=0.1)).shape == (2, 2, 99)
    # windows of "t" are 30, 37, 44, 51, ... samples long
    rounded = compose(System((Part("t", ("drums",), segment=0.5), Part("i", ("other",), minus=("drums",)))), nets)
    with pytest.raises(InputError, match=r"'segment' \(=0\.5\) cannot be used: .* at most 0\.5 s"):
        rounded.plan(("other",), Options())


def test_stems_that_are_cut_differently_cannot_be_subtracted_together():
    system = System((Part("v", ("vocals",)), Part("h", ("bass",)), Part("i", ("other",), minus=("vocals", "bass"))))
    model = compose(system, networks())
    with pytest.raises(InputError, match="stems of v and h are subtracted together, but cut differently"):
        model.plan(("other",), Options())
    assert separate(model, wave(1, (2, 9)), ["vocals", "bass"]).shape == (2, 2, 9)


def test_unknown_stems_are_refused_with_a_suggestion():
    with pytest.raises(InputError, match="no stem 'drum'; did you mean 'drums'"):
        separate(compose(BYTEMSS, networks()), wave(1, (2, 9)), ["drum"])
