"""`jaxmss evaluate-filters`: the paper's Table 1 on the demonstration, on a data set and on any audio."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from audio.files import music

from jaxmss import cli
from jaxmss.evaluation.filters import reconstruction

RATE = 8000


def run(capsys, *arguments) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate-filters", *map(str, arguments)])
    told = capsys.readouterr()
    return ended.value.code, (told.out + told.err).splitlines()


def figures(lines, start) -> list[float]:
    [line] = [line for line in lines if line.startswith(start)]
    return [float(figure) for figure in line[40:].split()]


def write(path, waveform):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.T, RATE, subtype="FLOAT")


def sdr(waveform) -> list[float]:
    """Return the SDR of the whole waveform, in float64, for 2, 4 and 8 subbands."""
    errors = [np.float64(reconstruction(waveform, subbands)) - waveform for subbands in (2, 4, 8)]
    return [10 * np.log10(np.sum(np.float64(waveform) ** 2) / np.sum(error**2)) for error in errors]


def test_vocals_of_the_demonstration_come_back_with_122_107_and_70_dB(capsys):
    status, lines = run(capsys, "demo")
    assert status == 0
    assert figures(lines, "published") == [102.3, 93.7, 79.9]
    np.testing.assert_allclose(figures(lines, "median, whole tracks"), [122.2, 106.8, 70.4], rtol=0, atol=0.1)
    np.testing.assert_allclose(figures(lines, "median, frames of 1 s"), [122.7, 106.6, 70.4], rtol=0, atol=0.1)


def test_of_a_data_set_the_vocals_are_taken(tmp_path, capsys):
    vocals = {name: music(seconds, RATE) for name, seconds in (("A", 2.5), ("B", 1.0), ("C", 1.5))}
    for name, waveform in vocals.items():
        write(tmp_path / "valid" / name / "vocals.wav", waveform)
        write(tmp_path / "valid" / name / "drums.wav", np.zeros_like(waveform))
    status, lines = run(capsys, tmp_path, "--split", "valid")
    assert status == 0
    expected = np.median([sdr(waveform) for waveform in vocals.values()], axis=0)
    np.testing.assert_allclose(figures(lines, "median, whole tracks"), expected, rtol=0, atol=0.01)
    np.testing.assert_allclose(figures(lines, "B"), sdr(vocals["B"]), rtol=0, atol=0.01)  # it is a single frame


def test_any_audio_is_scored_and_what_cannot_be_is_named(tmp_path, capsys):
    write(tmp_path / "in" / "mono.wav", music(1.2, RATE, 1))
    write(tmp_path / "silent.wav", np.zeros((2, 3 * RATE)))
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    status, lines = run(capsys, tmp_path)
    assert status == 1
    assert figures(lines, str(tmp_path / "in" / "mono.wav")[-39:]) == figures(lines, "median, frames of 1 s")
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 2
    assert "broken.wav" in failed[0]
    assert failed[1].endswith("silent.wav: it is silent in every second; leave it out")


@pytest.mark.parametrize(("name", "message"), [("nowhere", "does not exist"), ("", "holds no audio files")])
def test_a_folder_without_audio_gets_one_line_and_status_2(tmp_path, capsys, name, message):
    status, [line] = run(capsys, tmp_path / name)
    assert status == 2
    assert line.startswith("jaxmss: ")
    assert message in line
