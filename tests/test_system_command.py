"""Systems by name, by file and by value, from the command lines down to real checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from audio.files import music
from evaluation.stems import write_stems
from tiny import CONTEXT, SEGMENT

from jaxmss import cli
from jaxmss.composed import ComposedSeparator
from jaxmss.errors import InputError
from jaxmss.evaluation import command
from jaxmss.loading import load
from jaxmss.published_systems import SYSTEMS
from jaxmss.separator import separate
from jaxmss.systems import Part, System

STEMS = ("vocals", "bass", "drums", "other")


def system(vocals: object, instruments: object) -> dict:
    return {
        "parts": [
            {"network": str(vocals), "stems": ["vocals"]},
            {"network": str(instruments), "stems": ["bass", "drums", "other"], "minus": ["vocals"]},
        ]
    }


@pytest.fixture
def file(tmp_path) -> Path:
    """A system whose networks lie beside its file."""
    for name, architecture in (("voices", "cws-small"), ("rest", "cws-joint")):
        shutil.copytree(tiny.checkpoint(architecture), tmp_path / "networks" / name)
    path = tmp_path / "system.json"
    path.write_text(json.dumps(system("networks/voices", "networks/rest")))
    return path


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; return its exit status, output and errors."""

    def run(main: Callable[[list[str]], None], *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def song(tmp_path) -> Path:
    soundfile.write(tmp_path / "song.wav", music(2.3).T, 44100, subtype="FLOAT")
    return tmp_path / "song.wav"


def read(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: soundfile.read(path, dtype="float32")[0].T for path in folder.glob("*.wav")}


def by_hand(track: np.ndarray) -> dict[str, np.ndarray]:
    """What the networks make of each segment with its context, the second one of what the first one leaves."""
    voices, rest = tiny.model("cws-small"), tiny.model("cws-joint")
    kept = []
    for start in range(0, track.shape[1], SEGMENT):
        first = max(start - CONTEXT, 0)
        seen = track[None, :, first : start + SEGMENT + CONTEXT]
        length = seen.shape[2]
        window = np.pad(seen, ((0, 0), (0, 0), (0, SEGMENT + 2 * CONTEXT - length)))  # of one size, to compile once
        vocals = np.asarray(voices(window, lengths=[length]))[0]
        stems = np.concatenate([vocals, np.asarray(rest(window - vocals, lengths=[length]))[0]])
        kept.append(stems[..., start - first : length][..., :SEGMENT])
    return dict(zip(STEMS, np.concatenate(kept, axis=-1), strict=True))


def test_a_file_of_a_system_separates_from_the_command_line(run, song, file, tmp_path):
    options = ["--format", "wav32f", "--clipping", "none"]
    status, out, err = run(cli.main, "separate", song, "-o", tmp_path / "out", "--model", file, *options)
    assert (status, err) == (0, "")
    assert "1 of 1 in" in out
    stems = read(tmp_path / "out" / "song")
    expected = by_hand(music(2.3))
    assert sorted(stems) == sorted(STEMS)
    for stem, waveform in stems.items():
        np.testing.assert_allclose(waveform, expected[stem], rtol=0, atol=1e-5)


def test_one_stem_runs_one_network(run, song, file, tmp_path):
    shutil.rmtree(tmp_path / "networks" / "rest" / "weights")
    arguments = ["separate", song, "-o", tmp_path / "out", "--model", file, "--format", "wav32f", "--clipping", "none"]
    assert run(cli.main, *arguments, "--stems", "vocals")[0] == 0
    [(name, waveform)] = read(tmp_path / "out" / "song").items()
    assert name == "vocals"
    np.testing.assert_allclose(waveform, separate(tiny.model("cws-small"), music(2.3))[0], rtol=0, atol=1e-5)
    status, _, err = run(cli.main, *arguments, "--stems", "other")
    assert status == 2
    assert "rest" in err
    assert "damaged" in err


def test_consistent_stems_of_a_file_sum_to_it_at_its_own_rate(run, file, tmp_path):
    mixture = music(2.3, 48000)
    soundfile.write(tmp_path / "song.wav", mixture.T, 48000, subtype="FLOAT")
    options = ["--model", file, "--format", "wav32f", "--clipping", "none", "--consistent"]
    assert run(cli.main, "separate", tmp_path / "song.wav", "-o", tmp_path / "out", *options)[0] == 0
    stems = read(tmp_path / "out" / "song")
    np.testing.assert_allclose(sum(stems.values()), mixture, rtol=0, atol=1e-6)


def test_consistent_stems_are_all_or_none(run, song, file, tmp_path):
    arguments = ["separate", song, "-o", tmp_path / "out", "--consistent", "--model"]
    status, _, err = run(cli.main, *arguments, file, "--stems", "vocals,bass")
    assert status == 2
    assert "lack drums, other" in err
    status, _, err = run(cli.main, *arguments, tiny.checkpoint("cws-joint"))
    assert status == 2
    assert "lack vocals" in err
    assert run(cli.main, *arguments, file)[0] == 0
    (tmp_path / "out" / "song" / "bass.wav").unlink()
    status, _, err = run(cli.main, *arguments, file)
    assert status == 2
    assert "its stem vocals exists already" in err


def test_a_system_is_evaluated_and_told_apart_from_others(run, file, tmp_path):
    rate = 8000
    stems = {stem: music(2.0, rate, 1) * gain for stem, gain in zip(STEMS, (0.1, 0.2, 0.3, 0.1), strict=True)}
    write_stems(tmp_path / "data" / "test" / "A", {**stems, "mixture": sum(stems.values())}, rate)
    arguments = ["--ckpt", file, "--data.root", tmp_path / "data", "--output", tmp_path / "results"]
    status, _, err = run(command.main, *arguments)
    assert (status, err) == (0, "")
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert set(STEMS) <= set(results["stems"])
    assert results["system"] == "system"
    [voices, rest] = results["config"]["system"]["parts"]
    assert voices["network"] == str((tmp_path / "networks" / "voices").resolve())
    assert rest["minus"] == ["vocals"]

    file.write_text(json.dumps(system("networks/voices", "networks/rest")).replace('["bass", "drums", ', '["drums", '))
    status, _, err = run(command.main, *arguments)
    assert status == 2
    assert "holds results of another evaluation" in err


def test_a_system_may_be_a_value():
    vocals, rest = (str(tiny.checkpoint(name)) for name in ("cws-small", "cws-joint"))
    model = load(System((Part(vocals, ("vocals",)), Part(rest, ("other",), minus=("vocals",)))))
    assert model.sources == ("vocals", "other")
    assert separate(model, music(0.2)).shape == (2, 2, 8820)


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_systems_are_known_without_their_weights(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXMSS_CACHE", str(tmp_path / "empty"))
    model = load(name)
    assert isinstance(model, ComposedSeparator)
    assert (model.sample_rate, model.channels) == (44100, 2)
    assert set(STEMS) <= set(model.sources)
    assert not (tmp_path / "empty").exists()


def test_systems_are_listed(run):
    status, out, _ = run(cli.main, "models")
    assert status == 0
    assert "  bytemss: vocals, drums, bass, other\n" in out
    assert "    other by cws-joint of the mixture minus vocals\n" in out


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([{"network": "nowhere", "stems": ["vocals"]}], "nowhere' is neither a checkpoint directory nor"),
        ([{"network": "networks/voices", "stems": ["vocal"]}], "voices has no stem 'vocal'; did you mean 'vocals'"),
        (
            [{"network": "htdemucs", "stems": ["vocals"]}],
            "'htdemucs' is a system of networks, not one: name one of 9557",
        ),
        ([{"network": "system.json", "stems": ["vocals"]}], "system.json' is a system of networks, not one"),
        ([{"network": "cws-vocals", "stem": ["vocals"]}], "system.json: Config field 'stem' is not one of Part"),
    ],
)
def test_a_system_that_cannot_be_loaded_is_told_in_a_line(run, song, file, tmp_path, parts, told):
    file.write_text(json.dumps({"parts": parts}))
    status, out, err = run(cli.main, "separate", song, "-o", tmp_path / "out", "--model", file)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err


def test_training_starts_from_one_network_only():
    from jaxmss.loading import read, resolve

    with pytest.raises(InputError, match="'bytemss' is a system of networks, not one: name one of cws-vocals, "):
        read(resolve("bytemss"))
