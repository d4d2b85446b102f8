from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import tiny_run

from jaxmss import models
from jaxmss.checkpoints import store
from jaxmss.config import SpleeterConfig
from jaxmss.errors import CheckpointError, InputError
from jaxmss.evaluation.separation import model_system
from jaxmss.loading import load
from jaxmss.separator import AS_PUBLISHED
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Checkpoints, Config, Optim
from jaxmss.training.run_directory import claimed
from jaxmss.training.starting import start_from

CONFIG = tiny_run.config(checkpoints=Checkpoints(keep=3))


def train(directory: Path, sdr: dict[int, float | None], config: Config = CONFIG) -> Path:
    """A run with the checkpoints of these steps."""
    with claimed(directory, config), RunCheckpoints(directory, config.checkpoints, "") as checkpoints:
        for step, value in sdr.items():
            tiny_run.save(checkpoints, step, tiny_run.state(config, step), value)
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "mine", {10: 3.0, 20: 7.0, 30: 5.0})


def raw(step: int) -> dict:
    state = tiny_run.state(CONFIG, step)
    return {"params": state.params, "batch_stats": state.batch_stats}


def averaged(step: int) -> dict:
    return tiny_run.state(CONFIG, step).ema


@pytest.mark.parametrize(
    ("which", "variables"),
    [
        ("", averaged(20)),
        ("@best", averaged(20)),
        ("@last", averaged(30)),
        ("@10", averaged(10)),
        ("@raw", raw(20)),
        ("@best@raw", raw(20)),
        ("@10@raw", raw(10)),
    ],
)
def test_a_run_gives_the_checkpoint_that_is_asked_for(run, which, variables):
    model = load(f"{run}{which}")
    assert model.config == CONFIG.model
    assert tiny_run.same(model.variables, variables)


def test_a_run_without_validation_gives_its_last(tmp_path):
    directory = train(tmp_path, {1: None, 2: None})
    assert tiny_run.same(load(directory).variables, averaged(2))
    with pytest.raises(InputError, match="holds no validated checkpoint; choose last or one of 1, 2"):
        load(f"{directory}@best")


def test_a_run_that_keeps_no_average_gives_the_parameters(tmp_path):
    config = tiny_run.config(optim=Optim(ema=0.0))
    state = tiny_run.state(config, 1)
    model = load(train(tmp_path, {1: None}, config))
    assert tiny_run.same(model.variables, {"params": state.params, "batch_stats": state.batch_stats})


@pytest.mark.parametrize("which", ["15", "bst", "", "-1", "../10"])
def test_an_unknown_step_is_refused_with_those_that_there_are(run, which):
    with pytest.raises(InputError, match=f"mine holds no checkpoint '{which}'; choose best, last or one of 10, 20, 30"):
        load(f"{run}@{which}")


def test_a_run_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
        load(train(tmp_path, {}))


def test_a_checkpoint_directory_has_no_steps():
    directory = tiny.checkpoint("cws-small")
    for which in ("@last", "@raw", "@3@raw"):
        with pytest.raises(InputError, match=f"{which}' is no checkpoint of a training run: .* is none; give it alone"):
            load(f"{directory}{which}")


def test_the_folder_of_a_checkpoint_of_a_run_is_told_how_to_name_it(run):
    with pytest.raises(InputError, match=f"is a checkpoint of a training run; name it '{run}@10'"):
        load(run / "checkpoints/10")


def test_a_directory_may_have_an_at_in_its_name(tmp_path):
    directory = train(tmp_path / "take@2", {1: None})
    assert tiny_run.same(load(directory).variables, averaged(1))
    assert tiny_run.same(load(f"{directory}@1@raw").variables, raw(1))


def test_evaluation_tells_the_checkpoints_of_a_run_apart(run):
    chosen = ("", "@best", "@last", "@last@raw")
    systems = [model_system(f"{run}{which}", AS_PUBLISHED, "float32", ["vocals"]) for which in chosen]
    assert [system.name for system in systems] == ["mine@20", "mine@20", "mine@30", "mine@30@raw"]
    assert [system.identity["checkpoint"] for system in systems] == [
        f"{run.resolve().parent}/{s.name}" for s in systems
    ]


def break_config(run: Path) -> None:
    (run / "config.json").write_text("{}")


def lose_config(run: Path) -> None:
    (run / "config.json").unlink()


def change_widths(run: Path) -> None:
    noted = json.loads((run / "config.json").read_text())
    noted["config"]["model"]["widths"] = [8]
    (run / "config.json").write_text(json.dumps(noted))


def change_names(run: Path) -> None:
    (run / "checkpoints/30/manifest.json").write_text('{"files": {"ema": {"../../../../../../dev/zero": [0, 0]}}}')


def odd_manifest(run: Path) -> None:
    (run / "checkpoints/30/manifest.json").write_text('{"files": {"ema": [1]}}')


def cut_weights(run: Path) -> None:
    largest = max((run / "checkpoints/30/ema").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(largest.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (break_config, r"config\.json is not the config of a run"),
        (lose_config, r"config\.json is not the config of a run"),
        (change_widths, "damaged or of another network"),
        (change_names, "zero is missing, so that the checkpoint is damaged"),
        (odd_manifest, r"is damaged: manifest\.json cannot be used"),
        (cut_weights, r"is damaged: it holds .*; the run's other checkpoints: .*/copy@10"),
    ],
)
def test_a_harmed_run_is_refused_in_a_line(run, tmp_path, harm, told):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    harm(copy)
    with pytest.raises(CheckpointError, match=told) as refusal:
        load(f"{copy}@30")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[", "3", "{}", '{"sdr": "loud"}', '{"sdr": []}'])
def test_a_damaged_manifest_is_not_the_best(run, tmp_path, content):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "checkpoints/20/manifest.json").write_text(content)
    assert tiny_run.same(load(copy).variables, averaged(30))


def started(init: str | Path, **changes) -> tuple[object, list[str]]:
    config = tiny_run.config(init=str(init), **changes)
    told: list[str] = []
    return start_from(config, tiny_run.state(config, 0), told.append), told


def test_a_run_starts_from_another_with_a_fresh_optimizer(run):
    state, told = started(f"{run}@10")
    initial = tiny_run.state(CONFIG, 0)
    assert tiny_run.same({"params": state.params, "batch_stats": state.batch_stats}, averaged(10))
    assert tiny_run.same(state.ema, averaged(10))
    assert tiny_run.same((state.opt_state, state.step), (initial.opt_state, initial.step))
    assert not told


def test_a_started_state_can_be_donated(run):
    state, _ = started(run)
    jax.block_until_ready(jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)(state))


def test_a_run_starts_from_a_checkpoint_directory(tmp_path):
    variables = jax.tree.map(np.asarray, raw(4))
    store.save(tmp_path / "own", CONFIG.model, variables)
    state, _ = started(tmp_path / "own", optim=Optim(ema=0.0))
    assert tiny_run.same({"params": state.params, "batch_stats": state.batch_stats}, variables)
    assert state.ema is None


def test_another_network_is_refused_with_what_differs(run):
    other = replace(CONFIG.model, sources=("vocals", "accompaniment"))
    stems = r"another network: stems \(vocals, not vocals, accompaniment\), "
    with pytest.raises(InputError, match=stems + r"params/.*/kernel \(\(.*\), not \(.*\)\).* with init_partly"):
        started(run, model=other)


def test_other_stems_are_refused_even_if_the_shapes_are_the_same(run):
    other = replace(CONFIG.model, sources=("accompaniment",))
    told = r"another network: stems \(vocals, not accompaniment\); with init_partly what has the same name and"
    with pytest.raises(InputError, match=told):
        started(run, model=other)
    state, [line] = started(run, model=other, init_partly=True)
    assert tiny_run.same(state.params, averaged(20)["params"])
    assert line.endswith("stems (vocals, not accompaniment); what has the same name and shape is taken for these")


def test_what_fits_is_taken_by_choice_and_the_rest_listed(run):
    other = replace(CONFIG.model, sources=("vocals", "accompaniment"))
    state, [stems, line] = started(run, model=other, init_partly=True)
    assert "stems (vocals, not vocals, accompaniment)" in stems
    initial = tiny_run.state(tiny_run.config(model=other), 0)
    new, kept, given = (
        jax.tree_util.tree_leaves_with_path(t) for t in (state.params, initial.params, averaged(20)["params"])
    )
    untaken = []
    for (path, leaf), (_, before), (_, there) in zip(new, kept, given, strict=True):
        if leaf.shape != there.shape:
            untaken.append(jax.tree_util.keystr(path, simple=True, separator="/"))
        assert tiny_run.same(leaf, before if leaf.shape != there.shape else there)
    assert 0 < len(untaken) < 5
    for name in untaken:
        assert f"params/{name} (" in line
    assert tiny_run.same(state.ema["params"], state.params)


def test_parameters_that_the_network_has_no_place_for_are_told_apart_in_lines_of_bounded_length(tmp_path):
    deep = tiny_run.config(model=replace(CONFIG.model, blocks=4))
    _, [stay, left] = started(train(tmp_path / "deep", {10: None}, deep), init_partly=True)
    assert re.search(r"as initialised stay (\S+ \(\(.*?\), not \(.*?\)\)(, | and )){8}\d+ more$", stay)
    assert re.search(r"not of this network are \S+/decoder1/blocks/rest/\S+(, \S+){7} and \d+ more$", left)
    _, [stay] = started(train(tmp_path / "flat", {10: None}), model=deep.model, init_partly=True)
    assert re.search(r"as initialised stay (\S+ \(.*?\)+(, | and )){8}\d+ more$", stay)
    assert "decoder1/blocks/rest/bn2/mean (missing)" in stay


def test_a_network_with_nothing_in_common_is_refused(tmp_path):
    network = SpleeterConfig(widths=(2,))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(network))
    store.save(tmp_path / "other", network, zeros)
    with pytest.raises(InputError, match="has nothing in common with the network; choose another checkpoint"):
        started(tmp_path / "other", init_partly=True)
