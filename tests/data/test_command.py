"""`jaxmss data check | build | synth`, and `eval.py` and training data on what they write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxmss import cli
from jaxmss.data import prepared, synth
from jaxmss.data.tracks import MIXTURE, STEMS, find_tracks


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return its exit status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The smallest synthetic data set."""
    directory = tmp_path_factory.mktemp("synthetic")
    synth.write(directory, songs=1, seconds=3.0, processes=1)
    return directory


def test_what_is_made_is_checked_prepared_and_read_back(run, tmp_path):
    made, out = tmp_path / "made", tmp_path / "prepared"
    status, told, errors = run("data", "synth", made, "--songs", 2, "--seconds", 3, "--seed", 7)
    assert (status, errors) == (0, "")
    assert told == f"Wrote {made}; use it by --data.root {made}\n"
    status, told, _ = run("data", "check", made)
    assert status == 0, told
    assert told.splitlines()[-1].startswith("4 tracks (2 in train, 1 in valid, 1 in test), 0.00 h: ")
    status, told, errors = run("data", "build", made, out)
    assert (status, errors) == (0, "")
    assert told.startswith(f"Wrote {prepared.directory(out)}: tracks 2 in train, 1 in valid, 1 in test; it reads back")
    (original,), (stored,) = find_tracks(made, "test"), find_tracks(out, "test")
    expected, read = (track.read([*STEMS, MIXTURE])[0] for track in (original, stored))
    for stem in (*STEMS, MIXTURE):
        np.testing.assert_array_equal(read[stem], expected[stem])


def test_an_error_in_the_data_makes_the_exit_status_1_and_a_warning_does_not(run, made, tmp_path):
    for file in sorted((made / "train").rglob("*.wav")):
        samples, rate = soundfile.read(file, dtype="int16")
        copy = tmp_path / file.relative_to(made)
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(copy, samples if file.stem != "bass" else 0 * samples, rate)
    status, told, _ = run("data", "check", tmp_path, "--split", "train")
    assert status == 0
    assert "warning: bass is silent" in told
    assert told.splitlines()[-1].endswith("0.00 h: 0 errors, 2 warnings")  # and the mixture is not the sum
    copy.unlink()
    status, told, _ = run("data", "check", tmp_path)
    assert status == 1
    assert "error: lacks vocals" in told


def test_mistakes_exit_with_2_and_one_line(run, made, tmp_path):
    for arguments, message in (
        (("check", tmp_path / "nowhere"), "There is no directory"),
        (("check", made, "--split", "tests"), "holds no split 'tests'"),
        (("build", tmp_path, tmp_path / "out"), "holds none of the folders train, valid, test"),
        (("synth", tmp_path, "--seconds", 0), "seconds"),
    ):
        status, told, errors = run("data", *arguments)
        assert (status, told) == (2, "")
        assert errors.startswith("jaxmss: ")
        assert message in errors
        assert errors.count("\n") == 1


def test_a_destination_that_cannot_be_written_is_told_of(run, made, tmp_path):
    (tmp_path / "file").touch()
    status, _, errors = run("data", "build", made, tmp_path / "file")
    assert status == 2
    assert "cannot be written" in errors
    assert errors.count("\n") == 1


def test_the_defaults_of_the_command_are_those_of_the_library():
    command, library = (inspect.signature(f).parameters for f in (cli.synthesize_data, synth.write))
    for name in ("songs", "seconds", "seed"):
        assert command[name].default == library[name].default
