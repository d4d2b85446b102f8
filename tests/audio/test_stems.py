"""The stems of a track keep their balance, whatever is done about clipping, and appear together."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from audio.files import RATE, music
from jaxmss.audio.reading import read
from jaxmss.audio.stems import StemWriter, open_stems
from jaxmss.errors import AudioError


def write_stems(folder, stems: np.ndarray, block: int = 1000, **options) -> StemWriter:
    paths = {name: folder / f"{name}.x" for name in ("vocals", "drums", "other")[: len(stems)]}
    with open_stems(paths, RATE, stems.shape[1], **options) as writer:
        for start in range(0, stems.shape[2], block):
            writer.write(stems[..., start : start + block])
            assert {path.name for path in folder.iterdir()}.isdisjoint(path.name for path in paths.values())
    return writer


def read_stems(writer: StemWriter) -> np.ndarray:
    return np.stack([read(report.path)[0] for report in writer.reports.values()])


@pytest.fixture
def loud() -> np.ndarray:
    """Three stems, of which the second clips."""
    quiet = music(0.5) / 2
    stems = np.stack([quiet, quiet, -quiet])
    stems[1, 0, 100] = 1.6
    stems[1, 1, 200:203] = -1.25
    return stems


@pytest.mark.parametrize("format", ["wav16", "wav24", "wav32f", "flac"])
def test_rescale_gives_all_stems_one_gain_and_the_loudest_full_scale(tmp_path, loud, format):
    writer = write_stems(tmp_path, loud, format=format, clipping="rescale")
    assert writer.gain == pytest.approx(1 / 1.6)
    np.testing.assert_allclose(read_stems(writer), loud / 1.6, atol=2**-15)
    assert sorted(os.listdir(tmp_path)) == ["drums.x", "other.x", "vocals.x"]


def test_rescale_leaves_what_does_not_clip_untouched(tmp_path, loud):
    quiet = loud[[0, 2]]
    writer = write_stems(tmp_path, quiet, format="wav32f", clipping="rescale")
    assert writer.gain == 1.0
    np.testing.assert_array_equal(read_stems(writer), quiet)


def test_rescale_of_silence_is_silence(tmp_path):
    writer = write_stems(tmp_path, np.zeros((2, 1, 5000), np.float32), format="flac", clipping="rescale")
    assert writer.gain == 1.0
    assert not read_stems(writer).any()


@pytest.mark.parametrize(("clipping", "limit"), [("clamp", 1.0), ("none", 2.0)])
def test_clamp_cuts_off_and_none_keeps(tmp_path, loud, clipping, limit):
    writer = write_stems(tmp_path, loud, format="wav32f", clipping=clipping)
    np.testing.assert_array_equal(read_stems(writer), np.clip(loud, -limit, limit))
    assert writer.gain == 1.0


@pytest.mark.parametrize("clipping", ["rescale", "clamp", "none"])
def test_peaks_and_clipped_samples_are_reported_as_they_were(tmp_path, loud, clipping):
    reports = write_stems(tmp_path, loud, format="wav32f", clipping=clipping).reports
    assert [report.clipped for report in reports.values()] == [0, 4, 0]
    assert reports["drums"].peak == pytest.approx(1.6)
    assert reports["vocals"].peak == reports["other"].peak == np.abs(loud[0]).max()


@pytest.mark.parametrize("clipping", ["rescale", "clamp"])
def test_a_stem_that_is_no_number_stops_the_track(tmp_path, loud, clipping):
    loud[2, 1, 11025] = np.nan
    with pytest.raises(AudioError, match=r"stem 'other' has NaN or infinite samples, the first at 0\.250 s"):
        write_stems(tmp_path, loud, format="flac", clipping=clipping)
    assert os.listdir(tmp_path) == []


def test_choices_that_make_no_sense_are_refused(tmp_path, loud):
    with pytest.raises(AudioError, match="clipping 'none' needs the format 'wav32f', not 'wav16'"):
        write_stems(tmp_path, loud, format="wav16", clipping="none")
    with pytest.raises(AudioError, match="unknown clipping 'rescael'; did you mean 'rescale'"):
        write_stems(tmp_path, loud, format="wav16", clipping="rescael")
    assert os.listdir(tmp_path) == []


def test_if_one_stem_cannot_be_placed_none_is(tmp_path, loud):
    paths = {name: tmp_path / f"{name}.wav" for name in ("vocals", "drums", "other")}

    def hindered() -> None:
        with open_stems(paths, RATE, 2, format="wav16") as writer:
            writer.write(loud)
            paths["other"].mkdir()  # by somebody else, in the meantime

    with pytest.raises(AudioError, match=r"other\.wav' cannot be written: Is a directory"):
        hindered()
    assert os.listdir(tmp_path) == ["other.wav"]


@pytest.mark.parametrize("clipping", ["rescale", "clamp"])
def test_writing_three_minutes_takes_the_memory_of_a_block(tmp_path, clipping):
    code = """
import resource, sys
import numpy as np
from jaxmss.audio.stems import open_stems
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
block = np.full((2, 2, 10 * 44100), 1.1, np.float32)
paths = {name: sys.argv[1] + "/" + name for name in ("vocals", "other")}
with open_stems(paths, 44100, 2, format="wav16", clipping=sys.argv[2]) as stems:
    for second in range(0, 180, 10):
        stems.write(block)
        if second == 10:
            before = peak()
print(peak() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path, clipping], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 20, "MB beyond the first 20 s; all stems would be 127"
