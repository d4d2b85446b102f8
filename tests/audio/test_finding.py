"""Files and folders become a list of audio files."""

from __future__ import annotations

import pytest

from jaxmss.audio.finding import find_audio_files
from jaxmss.errors import AudioError


def test_folders_are_searched_and_files_taken_as_given(tmp_path):
    names = ["b/2.FLAC", "b/ü ber.wav", "b/c/it's.mp3", "b/c/two\nlines.stem.mp4", "a file of any kind.dat"]
    for name in [*names, "b/cover.jpg", "b/.hidden.wav", "b/.trash/x.wav"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/folder.wav").mkdir()
    given = tmp_path / names[-1]
    found = find_audio_files([given, tmp_path / "b", tmp_path / names[0]])
    assert found == [given, *sorted(tmp_path / name for name in names[:-1])]


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AudioError, match="holds no audio files"):
        find_audio_files([tmp_path])


def test_a_missing_input_is_refused(tmp_path):
    with pytest.raises(AudioError, match="does not exist"):
        find_audio_files([tmp_path / "none"])
