"""Files and folders become a list of audio files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

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


def test_what_cannot_be_opened_is_found_to_be_told_of(tmp_path):
    (tmp_path / "song.wav").touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    assert find_audio_files([tmp_path]) == [tmp_path / name for name in ("gone.wav", "loop.wav", "song.wav")]


@pytest.mark.skipif(shutil.which("setpriv") is None or os.getuid() != 0, reason="root reads everything: needs setpriv")
def test_a_folder_that_cannot_be_read_is_told_of(tmp_path):
    (tmp_path / "locked").mkdir()
    (tmp_path / "song.wav").touch()
    (tmp_path / "locked").chmod(0)
    code = (
        "import sys; from pathlib import Path; from jaxmss.audio.finding import find_audio_files as find\n"
        "from jaxmss.audio.reading import open_audio\n"
        "folder = Path(sys.argv[1]); print(*[path.name for path in find([folder])])\n"
        "for bad in (lambda: open_audio(folder / 'locked'), lambda: find([folder / 'locked/song.wav'])):\n"
        "    try: bad()\n"
        "    except ValueError as error: print(error)\n"
    )
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*unprivileged, sys.executable, "-c", code, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0] == "locked song.wav"
    assert [line for line in told[1:] if "cannot be read: Permission denied" in line] == told[1:]
    assert len(told) == 3


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AudioError, match="holds no audio files"):
        find_audio_files([tmp_path])


def test_a_missing_input_is_refused(tmp_path):
    with pytest.raises(AudioError, match="does not exist"):
        find_audio_files([tmp_path / "none"])


def test_a_name_longer_than_the_system_takes_is_refused(tmp_path):
    with pytest.raises(AudioError, match="cannot be read: File name too long"):
        find_audio_files([tmp_path / ("a" * 300)])
