"""The configs of the papers' networks: what CWS-PResUNet's and bytesep's authors report of their training."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxmss.models import ARCHITECTURES
from jaxmss.training.command import config_of
from jaxmss.training.config import Config, Loss, Optim, Part

ROOT = Path(__file__).parents[1]


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: config_of(ROOT / "configs" / f"{name}.py")


def unaugmented(recipe: Config) -> bool:
    data = recipe.data
    return (data.remix, data.gain, data.swap_channels, data.flip_polarity) == (1.0, (1.0, 1.0), 0.0, 0.0)


@pytest.mark.parametrize("name", ["cws_vocals", "cws_small"])
def test_vocals_are_mixed_with_one_random_accompaniment(recipe, name):
    found = recipe(name)
    assert found.model == ARCHITECTURES[name.replace("_", "-")]
    assert found.data.parts == (
        Part("vocals", ("vocals",)),
        Part("accompaniment", ("bass", "drums", "other", "bass+drums+other")),
    )
    assert (found.data.seconds, found.data.batch) == (3.0, 8 * 8)
    assert unaugmented(found)
    assert found.loss == Loss(waveform=1.0, spectrogram=0.0, conserve_after=None)
    assert found.optim == Optim(amsgrad=True, lr=1e-3, warmup=26.6, decay=0.9, decay_every=400.0, ema=0.999)


def test_four_stems_are_drawn_apart_and_their_energy_is_conserved_after_10000_steps(recipe):
    found = recipe("cws_joint")
    assert found.model == ARCHITECTURES["cws-joint"]
    assert found.model.sources == ("bass", "drums", "other")
    assert {part.name: (part.choices, part.count) for part in found.data.parts} == {
        stem: ((stem,), 1) for stem in ("vocals", "bass", "drums", "other")
    }
    assert (found.data.seconds, found.data.batch) == (3.0, 8 * 16)
    assert unaugmented(found)
    assert found.loss == Loss(waveform=0.85, spectrogram=0.15, n_fft=2048, hop=441, conserve_after=10_000)
    assert found.optim == Optim(amsgrad=True, lr=5e-4, warmup=26.6, decay=0.9, decay_every=400.0, ema=0.999)


@pytest.mark.parametrize("name", ["resunet143_subband", "resunet143_ismir2021", "mobilenet_subband"])
def test_bytesep_adds_up_two_chunks_of_each_source(recipe, name):
    found = recipe(name)
    assert found.model == ARCHITECTURES[name.replace("_", "-")]
    assert found.data.parts == (
        Part("vocals", ("vocals",), count=2),
        Part("accompaniment", ("bass+drums+other",), count=2),
    )
    assert (found.data.seconds, found.data.batch) == (3.0, 16)
    assert unaugmented(found)
    assert found.loss == Loss(waveform=1.0, spectrogram=0.0, conserve_after=None)
    assert (found.optim.amsgrad, found.optim.lr, found.optim.decay) == (True, 1e-3, 0.9)
    steps = [found.steps(hours) for hours in (found.optim.warmup, found.optim.decay_every, found.hours)]
    assert steps == [1_000, 15_000, 500_000]
