"""The drummer: a kit of its own for every song, grooves of sixteenth notes, ghost notes and fills."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxmss.data.synth.effects import Mono, Stereo, add, band, drive, pan, reverberate, room
from jaxmss.data.synth.score import RATE, Score

_TAKES = 3  # recordings of each piece, no two of which are alike
_Takes = list[Float[np.ndarray, "2 _"]]

# one bar of sixteenths: x hit, o soft hit; songs in three leave the last beat out
_GROOVES = (
    {"kick": "x...x...x...x...", "snare": "....x.......x...", "hat": "..x...x...x...x."},
    {"kick": "x.......x.......", "snare": "....x.......x...", "hat": "x.o.x.o.x.o.x.o."},
    {"kick": "x.....x.x.......", "snare": "....x..o....x...", "hat": "x.x.x.x.x.x.x.x."},
    {"kick": "x..x..x...x.....", "snare": "....x.......x..o", "hat": "xoxoxoxoxoxoxoxo"},
    {"kick": "x.........x.....", "snare": "........x.......", "hat": "x.o.x.oox.o.x.o."},
    {"kick": "x..x....x..x....", "snare": "..o.x..o..o.x...", "hat": "x.xxx.x.x.xxx.x."},
    {"kick": "x.x.....x.x...x.", "snare": "....x.......x...", "ride": "x...x.x.x...x.x."},
    {"kick": "x.....x...x...x.", "clap": "....x.......x...", "hat": "o.x.o.x.o.xoo.x."},
)
_LEVELS = {"x": 1.0, "o": 0.35}
_HUMAN = 0.005  # seconds by which hits stray


def drums(rng: np.random.Generator, score: Score, samples: int) -> Stereo:
    """Play a song's drums."""
    kit = _kit(rng)
    out = np.zeros((2, samples))
    groove = _GROOVES[rng.integers(len(_GROOVES))]
    shaker = rng.random() < 0.4
    for number, bar in enumerate(score.bars):
        if bar.first and number:
            _hit(rng, out, kit["crash"], score.time(number, 0), 1.0)
        fill_from = score.steps - int(rng.choice([4, 6, 8])) if bar.last else score.steps
        for piece, pattern in groove.items():
            for step, sign in enumerate(pattern[: min(score.steps, fill_from)]):
                ghost = sign == "." and piece in ("kick", "snare") and rng.random() < 0.04 * bar.energy
                level = 0.25 if ghost else _LEVELS.get(sign, 0.0)
                if level and rng.random() > 0.03:
                    opened = piece == "hat" and sign == "x" and step % 4 == 2 and rng.random() < 0.25 * bar.energy
                    sound = kit["open hat" if opened else piece]
                    _hit(rng, out, sound, score.time(number, step), level * (0.6 + 0.4 * bar.energy))
        for step in range(0 if shaker and bar.energy > 0.6 else score.steps, score.steps):
            _hit(rng, out, kit["shaker"], score.time(number, step), 0.8 if step % 4 == 2 else 0.5)
        for step in range(fill_from, score.steps):
            if rng.random() < 0.75:
                piece = str(rng.choice(["snare", "high tom", "low tom", "kick"], p=[0.45, 0.25, 0.2, 0.1]))
                rise = (step - fill_from + 2) / (score.steps - fill_from + 1)
                _hit(rng, out, kit[piece], score.time(number, step), 0.9 * rise)
    wet = reverberate(out, room(rng, rng.uniform(0.25, 0.9), 7000.0), rng.uniform(0.05, 0.25))
    return drive(wet, rng.uniform(1.0, 2.5))


def _hit(rng: np.random.Generator, out: Stereo, takes: _Takes, time: float, level: float) -> None:
    sound = takes[rng.integers(_TAKES)] * (level * rng.uniform(0.85, 1.0))
    add(out, sound, round((time + rng.normal(0, _HUMAN)) * RATE))


def _kit(rng: np.random.Generator) -> dict[str, _Takes]:
    """Build and tune the pieces; each gets its place and level in the mix."""
    side = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.8)  # of the hi-hat: the drummer's or the listener's view
    kick = _membrane(rng, rng.uniform(42, 62), rng.uniform(2.5, 5.0), rng.uniform(0.12, 0.3), rng.uniform(0.1, 0.5))
    high, low = rng.uniform(130, 190), rng.uniform(75, 110)
    hat = rng.uniform(300, 480), rng.uniform(5500, 8500)
    pieces: dict[str, tuple[Callable[[], Mono], float, float]] = {
        "kick": (kick, 0.0, 1.0),
        "snare": (_snare(rng), rng.uniform(-0.1, 0.1), rng.uniform(0.6, 0.9)),
        "clap": (_clap(rng), rng.uniform(-0.2, 0.2), rng.uniform(0.6, 0.9)),
        "hat": (_metal(rng, *hat, rng.uniform(0.02, 0.05)), side, rng.uniform(0.25, 0.4)),
        "open hat": (_metal(rng, *hat, rng.uniform(0.15, 0.3)), side, rng.uniform(0.2, 0.35)),
        "ride": (_metal(rng, rng.uniform(380, 620), 3500.0, 0.35), -side, rng.uniform(0.2, 0.35)),
        "crash": (_metal(rng, rng.uniform(250, 420), 2500.0, rng.uniform(0.5, 0.9)), -0.7 * side, 0.4),
        "shaker": (_shaker(rng), -side, rng.uniform(0.08, 0.16)),
        "high tom": (_membrane(rng, high, 1.5, 0.18, 0.1), 0.5 * side, 0.8),
        "low tom": (_membrane(rng, low, 1.5, 0.25, 0.1), -0.5 * side, 0.9),
    }
    return {name: [level * pan(make(), place) for _ in range(_TAKES)] for name, (make, place, level) in pieces.items()}


def _time(seconds: float) -> Mono:
    return np.arange(int(seconds * RATE)) / RATE


def _membrane(rng: np.random.Generator, pitch: float, drop: float, decay: float, click: float) -> Callable[[], Mono]:
    """A kick or tom: a sine that falls from `drop` times its pitch, and the click of the beater."""

    def make() -> Mono:
        time = _time(5 * decay)
        frequency = pitch * rng.uniform(0.99, 1.01) * (1 + (drop - 1) * np.exp(-time / 0.025))
        body = np.sin(2 * np.pi * np.cumsum(frequency) / RATE) * np.exp(-time / decay)
        beater = band(rng.standard_normal(len(time)) * np.exp(-time / 0.004), "band", (1500.0, 7000.0))
        return body + click * beater

    return make


def _snare(rng: np.random.Generator) -> Callable[[], Mono]:
    pitch, wires, decay = rng.uniform(160, 240), rng.uniform(0.5, 1.2), rng.uniform(0.07, 0.2)
    edges = rng.uniform(700, 1800), rng.uniform(8000, 14000)

    def make() -> Mono:
        time = _time(5 * decay)
        shell = np.sin(2 * np.pi * pitch * time) + 0.6 * np.sin(2 * np.pi * 1.72 * pitch * time)
        noise = band(rng.standard_normal(len(time)), "band", edges)
        return 0.6 * shell * np.exp(-time / 0.06) + wires * noise * np.exp(-time / decay)

    return make


def _clap(rng: np.random.Generator) -> Callable[[], Mono]:
    middle, decay = rng.uniform(1100, 1900), rng.uniform(0.06, 0.15)

    def make() -> Mono:
        time = _time(0.03 + 5 * decay)
        hands = sum(np.where(time >= t, np.exp(-(time - t) / 0.006), 0) for t in (0.0, 0.011, 0.021))
        hands += np.where(time >= 0.03, np.exp(-(time - 0.03) / decay), 0)
        return 2.0 * band(rng.standard_normal(len(time)), "band", (0.6 * middle, 2.2 * middle)) * hands

    return make


def _metal(rng: np.random.Generator, pitch: float, lowest: float, decay: float) -> Callable[[], Mono]:
    """A cymbal: noise and six square waves that fit no series of harmonics, above `lowest` Hz."""
    pitches = pitch * np.array([1.0, 1.34, 1.79, 2.21, 2.68, 3.47]) * rng.uniform(0.97, 1.03, 6)
    noisy = rng.uniform(0.4, 1.0)
    time = _time(5 * decay)
    squares = np.sign(np.sin(2 * np.pi * np.outer(pitches, time))).sum(axis=0) / 3

    def make() -> Mono:
        sound = band(squares + noisy * rng.standard_normal(len(time)), "high", lowest)
        return sound * np.exp(-time / decay)

    return make


def _shaker(rng: np.random.Generator) -> Callable[[], Mono]:
    rise, fall = rng.uniform(0.01, 0.03), rng.uniform(0.02, 0.05)

    def make() -> Mono:
        time = _time(rise + 5 * fall)
        return band(rng.standard_normal(len(time)), "high", 5000.0) * np.minimum(
            time / rise, np.exp(-np.maximum(time - rise, 0) / fall)
        )

    return make
