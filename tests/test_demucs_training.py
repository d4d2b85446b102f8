"""Networks of the Demucs family train by the same command: no running statistics, dropout, plain Adam."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from training_runs import PARTS, batch

from jaxmss.config import converted, to_json
from jaxmss.data.mixing import Batch
from jaxmss.demucs_config import DemucsConfig, HybridDemucsConfig, ResidualBranch, Transformer
from jaxmss.errors import InputError
from jaxmss.models import ARCHITECTURES
from jaxmss.training import sharding
from jaxmss.training.command import config_of
from jaxmss.training.config import Compute, Config, Data, Network, Optim
from jaxmss.training.state import initial_state

ROOT = Path(__file__).parents[1]
SMALL = {
    **{"width": 4, "depth": 2, "n-fft": 256, "segment": 0.2, "transformer.layers": 1, "transformer.heads": 2},
    **{"transformer.width": 8, "residual.where": "none", "residual.compression": 4},
}


def run(*command: str | Path, where: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_a_hybrid_transformer_is_trained_resumed_and_separates_by_the_commands(tmp_path):
    jaxmss = (sys.executable, "-m", "jaxmss.cli")
    run(*jaxmss, "data", "synth", "songs", "--songs", "2", "--seconds", "3", where=tmp_path)

    def train(steps: int) -> str:
        given = {"data.root": "songs", "data.batch": 2, "data.seconds": 0.2, "hours": steps * 2 * 0.2 / 3600}
        given |= {"validation.every": 4 * (steps == 4), "checkpoints.every": 2, "watch.every": 1}
        given |= {f"model.{name}": value for name, value in SMALL.items()}
        flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
        return run(sys.executable, ROOT / "train.py", ROOT / "configs" / "htdemucs.py", *flags, where=tmp_path)

    train(steps=2)
    assert "step 4/4" in train(steps=4)
    directory = tmp_path / "runs" / "htdemucs"
    losses = [json.loads(line).get("loss") for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert len([loss for loss in losses if loss]) == 4

    mixture = tmp_path / "songs" / "test" / "test song 001" / "mixture.wav"
    run(*jaxmss, "separate", mixture, "-o", "stems", "--model", "runs/htdemucs", where=tmp_path)
    stems = {path.stem: soundfile.info(path).frames for path in (tmp_path / "stems").rglob("*.wav")}
    assert stems == dict.fromkeys(("bass", "drums", "other", "vocals"), soundfile.info(mixture).frames)


def test_dropout_differs_from_pass_to_pass_and_not_from_run_to_run():
    network = HybridDemucsConfig(
        sources=("vocals",),
        width=4,
        depth=2,
        n_fft=256,
        residual=ResidualBranch("none"),
        transformer=Transformer(layers=1, heads=2, width=8, dropout=0.5),
    )
    data = Data(parts=PARTS, seconds=2205 / 44100, batch=16)
    still = Config(network, data, optim=Optim(amsgrad=False, lr=1e-30, warmup=0.0, decay=1.0))  # nothing is learned
    mesh = sharding.make_mesh(still, jax.devices()[:1])

    shapes = jax.eval_shape(lambda: initial_state(still))

    def program(config: Config) -> str:
        return sharding.compile_step(config, mesh).lower(shapes, batch(0)).as_text()

    compiled = functools.cache(lambda config: sharding.compile_step(config, mesh))

    def metrics_of(config: Config, examples: Batch, steps: int) -> list[dict[str, float]]:
        step = compiled(config)
        random = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: random.normal(scale=0.3, size=leaf.shape).astype("f4"), shapes.params)
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)._replace(params=params)
        found = []
        for _ in range(steps):
            state, metrics = step(state, sharding.place_batch(examples, mesh))
            found.append({name: float(metrics[name]) for name in ("loss", "gradient_norm")})
        return found

    first = metrics_of(still, batch(0), 4)
    norms = [metrics["gradient_norm"] for metrics in first]
    assert np.ptp(norms) > 1e-3 * norms[0]
    assert len(set(norms)) == 4
    assert first == metrics_of(still, batch(0), 4)
    assert program(still) != program(replace(still, seed=1))

    # the two parts of each step are what two steps are
    twice = Batch(*(np.repeat(x, 2, axis=0) for x in batch(0)))
    halves = replace(still, data=replace(data, batch=32), compute=Compute(accumulate=2))
    losses = np.reshape([metrics["loss"] for metrics in first], (2, 2))
    assert np.ptp(losses) > 1e-4 * losses.mean()
    found = [metrics["loss"] for metrics in metrics_of(halves, twice, 2)]
    np.testing.assert_allclose(found, losses.mean(1), rtol=1e-6)


@pytest.mark.parametrize("name", ["demucs", "hdemucs", "htdemucs"])
def test_the_published_recipes_are_of_the_published_networks(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    recipe = config_of(ROOT / "configs" / f"{name}.py")
    assert recipe.model == ARCHITECTURES[name]
    assert not recipe.optim.amsgrad
    assert recipe.data.remix == 1.0
    assert (recipe.data.swap_channels, recipe.data.flip_polarity) == (0.5, 0.5)
    assert recipe.data.gain == (0.25, 1.25)
    assert recipe.optim.ema > 0.99
    assert (recipe.loss.waveform, recipe.loss.spectrogram) == (1.0, 0.0)


@pytest.mark.parametrize("network", [*ARCHITECTURES.values()], ids=ARCHITECTURES)
def test_a_network_of_any_kind_is_read_back_from_json(network):
    assert converted(Network, "model", json.loads(json.dumps(to_json(network)))) == network


def test_a_field_of_another_kind_is_refused():
    values = {**to_json(DemucsConfig()), "hop": 3}
    with pytest.raises(InputError, match=r"'width'|'hop'"):
        converted(Network, "model", values)
    with pytest.raises(InputError, match="depth"):
        replace(DemucsConfig(), depth=0)
