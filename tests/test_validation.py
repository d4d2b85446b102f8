"""Validation: museval's medians over whole tracks, one program for all weights, the same from any number of devices."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
import soundfile
import tiny
from golden_weights import wave

from jaxmss.data.tracks import find_tracks
from jaxmss.errors import InputError
from jaxmss.evaluation import score_track
from jaxmss.separator import Separator, separate
from jaxmss.training.config import Config, Data, Part, Validation
from jaxmss.training.validation import EXCERPT, Validator

RATE = 44100
STEMS = ("drums", "bass", "other", "vocals")
BACKING = ("bass", "drums", "other", "bass+drums+other")


def write_track(folder, seed, seconds=2.5, rate=RATE, channels=2, silent=()):
    """Write noise whose vocals come in late, as 16-bit files."""
    folder.mkdir(parents=True)
    samples = round(seconds * rate)
    stems = {stem: 0.1 * wave(10 * seed + i, (channels, samples)) for i, stem in enumerate(STEMS)}
    stems["vocals"][:, : samples // 2] *= 0.1
    for stem in silent:
        stems[stem][:] = 0
    for stem, waveform in {**stems, "mixture": sum(stems.values())}.items():
        soundfile.write(folder / f"{stem}.wav", waveform.T, rate, subtype="PCM_16")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for seed in range(3):
        write_track(root / "valid" / f"Song {seed}", seed)
    return root


@pytest.fixture(scope="module")
def model() -> Separator:
    return tiny.model("cws-vocals")


def config_of(model: Separator, **validation) -> Config:
    parts = (Part("vocals", ("vocals",)), Part("accompaniment", BACKING))
    return Config(model.config, Data(parts=parts), validation=Validation(**validation))


@pytest.fixture(scope="module")
def validator(root, model) -> Validator:
    return Validator(config_of(model, excerpts=2), find_tracks(root, "valid"))


def test_tracks_score_what_a_separation_of_theirs_scores(root, model, validator):
    result = validator(model.variables)
    for track in find_tracks(root, "valid"):
        stems, rate = track.read(["mixture", "vocals"])
        estimate = separate(model, stems["mixture"])[0]
        frames = score_track({"vocals": stems["vocals"]}, {"vocals": estimate}, rate, ["SDR"])["vocals"]["SDR"]
        assert len(frames) == 2
        assert result.tracks[track.name]["vocals"] == pytest.approx(np.median(frames), abs=1e-5)
    expected = np.median([track["vocals"] for track in result.tracks.values()])
    assert result.sdr == {"vocals": expected}
    assert result.mean == expected
    assert not result.failed


def test_every_source_is_scored_by_its_own_estimate_and_the_mean_is_over_them(root):
    model = tiny.model("cws-joint")
    parts = tuple(Part(stem, (stem,)) for stem in STEMS)
    track = find_tracks(root, "valid")[0]
    result = Validator(Config(model.config, Data(parts=parts)), [track])(model.variables)
    stems, rate = track.read(["mixture", *model.sources])
    estimates = dict(zip(model.sources, separate(model, stems.pop("mixture")), strict=True))
    scores = score_track(stems, estimates, rate, ["SDR"])
    expected = {source: np.median(scores[source]["SDR"]) for source in ("bass", "drums", "other")}
    assert result.sdr == pytest.approx(expected, abs=1e-4)
    assert np.ptp(list(expected.values())) > 0.1
    assert result.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-4)


def test_what_a_result_is_over_tells_other_tracks_of_the_same_number(root, tmp_path, model, validator):
    shutil.copytree(root / "valid", tmp_path / "valid")
    assert Validator(config_of(model), find_tracks(tmp_path, "valid")).over == validator.over
    vocals = tmp_path / "valid" / "Song 1" / "vocals.wav"
    waveform, rate = soundfile.read(vocals)
    soundfile.write(vocals, 0.5 * waveform, rate, subtype="PCM_16")
    assert Validator(config_of(model), find_tracks(tmp_path, "valid")).over != validator.over
    soundfile.write(vocals, waveform, rate, subtype="PCM_16")
    vocals.parent.rename(tmp_path / "valid" / "Song 3")
    assert Validator(config_of(model), find_tracks(tmp_path, "valid")).over != validator.over


def test_the_mixture_is_scored_against_every_source(root, model, validator):
    scores = []
    for track in find_tracks(root, "valid"):
        stems, _ = track.read(["mixture", "vocals"])
        signal, error = (
            np.square(x[:, : 2 * RATE].astype(float)).reshape(2, 2, RATE).sum((0, 2))
            for x in (stems["vocals"], stems["mixture"] - stems["vocals"])
        )
        scores.append(np.median(10 * np.log10(signal / error)))
    assert validator(model.variables).mixture == {"vocals": pytest.approx(np.median(scores), abs=1e-3)}


def test_other_weights_need_no_other_program(model, root):
    validator = Validator(config_of(model), find_tracks(root, "valid"))
    first = validator(model.variables)
    louder = jax.tree.map(lambda x: 1.1 * x, model.variables)
    second = validator(louder)
    assert first.mean != second.mean
    assert validator._model._apply._cache_size() == 1


def test_excerpts_are_the_loudest_seconds_of_the_first_tracks_on_every_visit(tmp_path, model):
    write_track(tmp_path / "valid" / "Long", 1, seconds=13)  # its vocals are louder from 6.5 s on
    write_track(tmp_path / "valid" / "Short", 2, seconds=1.5)
    tracks = find_tracks(tmp_path, "valid")
    validator = Validator(config_of(model, excerpts=1), tracks)
    (excerpt,), (again,) = (validator(model.variables).excerpts for _ in range(2))
    stems, rate = tracks[0].read(["mixture", "vocals"])
    assert (excerpt.track, excerpt.rate) == ("Long", rate)
    np.testing.assert_array_equal(excerpt.references["vocals"], stems["vocals"][:, 3 * rate : (3 + EXCERPT) * rate])
    np.testing.assert_array_equal(excerpt.mixture, stems["mixture"][:, 3 * rate : (3 + EXCERPT) * rate])
    np.testing.assert_array_equal(excerpt.estimates["vocals"], again.estimates["vocals"])
    short = Validator(config_of(model, excerpts=2), tracks)(model.variables).excerpts[1]
    assert short.mixture.shape == (2, round(1.5 * rate))


def test_a_part_drawn_from_several_stems_is_their_sum(root):
    model = tiny.model("cws-vocals")
    config = replace(config_of(model), model=replace(model.config, sources=("accompaniment",)))
    validator = Validator(config, find_tracks(root, "valid"))
    _, references, _ = validator._read(find_tracks(root, "valid")[0])
    stems, _ = find_tracks(root, "valid")[0].read(["bass", "drums", "other"])
    np.testing.assert_allclose(references["accompaniment"], sum(stems.values()), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"rate": 48000}, "it is at 48000 Hz, the network at 44100 Hz; resample the data"),
        ({"channels": 1}, "it has 1 channels, the network 2; convert the data"),
    ],
)
def test_a_track_of_another_form_than_the_networks_is_refused(tmp_path, model, form, why):
    write_track(tmp_path / "valid" / "Odd", 3, **form)
    with pytest.raises(InputError, match=f"Validation track 'Odd' cannot be used: {why}"):
        Validator(config_of(model), find_tracks(tmp_path, "valid"))


def test_a_track_whose_source_is_silent_is_left_out(root, tmp_path, model):
    shutil.copytree(root / "valid", tmp_path / "valid")
    write_track(tmp_path / "valid" / "Instrumental", 5, silent=["vocals"])
    validator = Validator(config_of(model), find_tracks(tmp_path, "valid"))
    assert validator.left_out == ("Instrumental",)
    assert set(validator(model.variables).tracks) == {"Song 0", "Song 1", "Song 2"}
    with pytest.raises(InputError, match="None of the 1 validation tracks can be scored"):
        Validator(config_of(model, tracks=1), find_tracks(tmp_path, "valid"))


def test_a_bad_track_is_named_before_training(root, tmp_path, model):
    shutil.copytree(root / "valid", tmp_path / "valid")
    (tmp_path / "valid" / "Song 1" / "vocals.wav").unlink()
    with pytest.raises(InputError, match=r"Song 1.*lacks vocals\.wav"):
        Validator(config_of(model), find_tracks(tmp_path, "valid"))


def test_a_track_that_fails_later_is_told_and_the_others_count(root, tmp_path, model):
    shutil.copytree(root / "valid", tmp_path / "valid")
    validator = Validator(config_of(model, excerpts=3), find_tracks(tmp_path, "valid"))
    whole = validator(model.variables)
    (tmp_path / "valid" / "Song 1" / "mixture.wav").write_bytes(b"RIFF")
    result = validator(model.variables)
    assert list(result.failed) == ["Song 1"]
    assert "mixture.wav" in result.failed["Song 1"]
    assert np.isnan(result.tracks["Song 1"]["vocals"])
    assert result.mean == pytest.approx(np.mean([whole.tracks[name]["vocals"] for name in ("Song 0", "Song 2")]))
    assert [excerpt.track for excerpt in result.excerpts] == ["Song 0", "Song 2"]
    fewer = Validator(config_of(model), [t for t in find_tracks(tmp_path, "valid") if t.name != "Song 1"])
    assert result.mixture == fewer(model.variables).mixture != whole.mixture


def test_a_failure_that_names_a_file_whose_name_is_no_text_is_told(root, tmp_path, model):
    shutil.copytree(root / "valid", tmp_path / "valid")
    validator = Validator(config_of(model), find_tracks(tmp_path, "valid"))
    vocals = tmp_path / "valid" / "Song 1" / "vocals.wav"
    vocals.rename(vocals.with_name(os.fsdecode(b"Caf\xe9.wav")))
    result = validator(model.variables)
    assert list(result.failed) == ["Song 1"]
    assert r"holds Caf\udce9.wav, bass.wav" in result.failed["Song 1"]


def test_weights_that_give_no_numbers_are_told_as_failures(validator, model):
    broken = jax.tree.map(lambda x: np.nan * x, model.variables)
    result = validator(broken)
    assert len(result.failed) == 3
    assert np.isnan(result.mean)
    assert all("NaN" in why for why in result.failed.values())


# prints what one of two processes with two devices each finds, the weights cut over all four devices
PROCESS = """
import json, pickle, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxmss.data.tracks import find_tracks
from jaxmss.errors import InputError
from jaxmss.training.config import Config, Data, Validation
from jaxmss.training.validation import Validator

weights, root, address, index = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
with open(weights, "rb") as file:
    model, variables = pickle.load(file)
mesh = Mesh(np.array(jax.devices()), ("fsdp",), axis_types=(AxisType.Auto,))

def place(x):
    cut = PartitionSpec("fsdp") if x.shape[0] % 4 == 0 else PartitionSpec()
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, cut), lambda i: np.asarray(x)[i])

tracks, config = find_tracks(root, "valid"), Config(model, validation=Validation(excerpts=2))
validator = Validator(config, tracks)
if index == "1":
    (tracks[2].path / "vocals.wav").unlink()
result = validator(jax.tree.map(place, variables))
try:
    Validator(config, tracks)
    refused = None
except InputError as error:
    refused = str(error)
print(json.dumps([result.tracks, result.failed, [e.track for e in result.excerpts], refused]))
"""


def test_two_processes_share_the_tracks_and_agree_with_one(root, tmp_path, model, validator):
    shutil.copytree(root / "valid", tmp_path / "valid")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    weights = tmp_path / "weights.pickle"
    weights.write_bytes(pickle.dumps((model.config, jax.tree.map(np.asarray, model.variables))))
    arguments = [str(weights), str(tmp_path), address]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments, str(index)], stdout=subprocess.PIPE, env=environment, text=True
        )
        for index in range(2)
    ]
    try:
        told = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    alone = validator(model.variables)
    for scores, failed, _, refused in told:
        assert scores["Song 0"]["vocals"] == pytest.approx(alone.tracks["Song 0"]["vocals"], abs=1e-4)
        assert scores["Song 1"]["vocals"] == pytest.approx(alone.tracks["Song 1"]["vocals"], abs=1e-4)
        assert np.isnan(scores["Song 2"]["vocals"])
        assert "lacks vocals.wav" in failed["Song 2"]
        assert "lacks vocals.wav" in refused  # by the process that could read all of its own tracks as well
    first, second = (excerpts for _, _, excerpts, _ in told)
    assert first == [excerpt.track for excerpt in alone.excerpts] == ["Song 0", "Song 1"]
    assert not second  # its only track failed
