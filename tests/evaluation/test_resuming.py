"""`eval.py` again on the same output: what is kept, what is scored again, and what is not mixed in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from golden_weights import wave

from jaxmss.data import find_tracks
from jaxmss.evaluation.run import evaluate
from jaxmss.evaluation.scoring import Job
from jaxmss.evaluation.systems import Estimates, System, folder_system

from .commands import frames, run_on_estimates
from .stems import RATE, change

REPOSITORY = Path(__file__).parents[2]


def test_a_killed_run_goes_on_where_it_stopped(root):
    command = [sys.executable, "eval.py", "--estimates", root / "estimates", "--data.root", root / "data"]
    command += ["--output", root / "out", "--workers", "1"]
    first = root / "out" / "tracks" / "A.json"
    cut_short = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    cut_short.kill()
    cut_short.wait()
    time.sleep(1)  # a process that scores ends with its parent: what is written now is all that is written
    done = {file.name: file.stat().st_mtime_ns for file in (root / "out" / "tracks").glob("*.json")}
    assert "A.json" in done
    assert run_on_estimates(root) == 0
    for name, written in done.items():
        assert (root / "out" / "tracks" / name).stat().st_mtime_ns == written
    assert list(json.loads((root / "out" / "results.json").read_text())["tracks"]) == ["A", "B", "C"]


def test_what_is_done_is_not_separated_again(root):
    asked = []
    folder = folder_system(root / "estimates", find_tracks(root / "data"))
    system = System("counted", {}, lambda track: asked.append(track.name) or folder.estimate(track))
    tracks, job = find_tracks(root / "data"), Job(root / "out")
    evaluate(system, tracks[:2], job, 1)
    outcome = evaluate(system, tracks, job, 1)
    assert asked == ["A", "B", "C"]
    assert list(outcome.results) == ["A", "B", "C"]


def test_results_of_another_evaluation_are_not_mixed_in(root, capsys):
    assert run_on_estimates(root, "--limit", 1) == 0
    assert run_on_estimates(root, "--limit", 1, "--fit-length") == 2
    assert "holds results of another evaluation (fit_length False, now True)" in capsys.readouterr().err


def test_results_of_other_data_are_not_mixed_in(root, capsys):
    shutil.copytree(root / "data", root / "other")
    assert run_on_estimates(root, "--limit", 1) == 0
    assert run_on_estimates(root, "--limit", 1, "--data", root / "other") == 2
    assert "holds results of another evaluation (data " in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["estimates", "data/test"])
def test_a_track_whose_files_have_changed_is_scored_again(root, changed, capsys):
    change(root / "data" / "test" / "B" / "vocals.wav", lambda x: 0 * x)
    assert run_on_estimates(root) == 0
    before = {track: frames(root / "out" / "tracks" / f"{track}.json") for track in "AC"}
    assert "excluded: B" in capsys.readouterr().out
    for track in "AB":
        change(root / changed / track / "vocals.wav", lambda x: x + 0.1 * wave(9, x.shape))
    assert run_on_estimates(root) == 0
    printed = capsys.readouterr().out
    assert ("excluded: B" in printed) == (changed == "estimates")
    assert "1 of 3 tracks were done before" in printed
    after = frames(root / "out" / "tracks" / "A.json")
    assert (after["vocals"]["SDR"] != before["A"]["vocals"]["SDR"]).all()
    np.testing.assert_equal(frames(root / "out" / "tracks" / "C.json"), before["C"])


def test_estimates_replaced_by_older_ones_are_scored_again(root, capsys):
    shutil.copytree(root / "estimates", root / "older")
    for track in "ABC":
        change(root / "older" / track / "vocals.wav", lambda x: x + 0.1 * wave(9, x.shape))
        os.utime(root / "older" / track / "vocals.wav", (0, 0))
    assert run_on_estimates(root) == 0
    before = frames(root / "out" / "tracks" / "A.json")["vocals"]["SDR"]
    shutil.rmtree(root / "estimates")
    (root / "older").rename(root / "estimates")
    assert run_on_estimates(root) == 0
    assert "done before" not in capsys.readouterr().out
    assert (frames(root / "out" / "tracks" / "A.json")["vocals"]["SDR"] != before).all()


class Deadly(np.ndarray):
    """Estimates that kill the process that unpacks them, as the kernel does when memory is short."""

    def __new__(cls):
        return np.zeros((2, 9), np.float32).view(cls)

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_scorer_costs_its_tracks_alone_and_they_are_scored_when_run_again(root):
    tracks, job = find_tracks(root / "data"), Job(root / "out")
    folder = folder_system(root / "estimates", tracks)
    estimate = {"A": lambda _: Estimates({"vocals": Deadly()}, RATE, None)}
    system = System("deadly", {}, lambda track: estimate.get(track.name, folder.estimate)(track))
    outcome = evaluate(system, tracks, job, 1)
    assert "A" in outcome.failed
    assert "was killed" in outcome.failed["A"]
    assert set(outcome.failed) | set(outcome.results) == {"A", "B", "C"}
    again = evaluate(System("deadly", {}, folder.estimate), tracks, job, 1)
    assert list(again.results) == ["A", "B", "C"]


def test_a_track_with_a_silent_stem_is_excluded_counted_and_not_repeated(root, capsys):
    change(root / "data" / "test" / "B" / "vocals.wav", lambda x: 0 * x)
    assert run_on_estimates(root) == 0
    printed = capsys.readouterr().out
    assert "excluded: B: reference of 'vocals' is silent throughout" in printed
    assert "estimates: 2 tracks, 1 excluded; dB" in printed
    written = (root / "out" / "excluded" / "B.json").stat().st_mtime_ns
    assert run_on_estimates(root) == 0
    assert "3 of 3 tracks were done before" in capsys.readouterr().out
    assert (root / "out" / "excluded" / "B.json").stat().st_mtime_ns == written
    assert list(json.loads((root / "out" / "results.json").read_text())["tracks"]) == ["A", "C"]


@pytest.mark.parametrize(("room", "kept"), [(1_000, "A"), (20_000, "ABC")])
def test_a_full_disk_keeps_what_is_done_and_the_rest_is_done_when_there_is_room(root, room, kept):
    assert run_on_estimates(root, "--limit", 1) == 0
    arguments = ["--estimates", root / "estimates", "--data.root", root / "data", "--output", root / "out"]
    code = f"""
import resource
from jaxmss.evaluation.command import main
if __name__ == "__main__":  # processes that score import this again
    resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    main({list(map(str, arguments))!r})
"""
    (root / "full.py").write_text(code)
    ended = subprocess.run([sys.executable, root / "full.py"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert re.search(r"(results.json|report.html)' cannot be written: File too large; free some space", line)
    assert ("worst excerpts no audio was kept" in ended.stdout) == ("B" in kept)
    assert ("[2/3] B: failed: " in ended.stdout) == ("B" not in kept)
    assert ("[3/3] C: failed: " in ended.stdout) == ("C" not in kept)
    assert "published SDR" in ended.stdout
    assert sorted(file.stem for file in (root / "out" / "tracks").iterdir()) == [*kept]
    assert run_on_estimates(root) == 0
    assert list(json.loads((root / "out" / "results.json").read_text())["tracks"]) == ["A", "B", "C"]


def test_a_reader_that_has_read_enough_does_not_end_the_run(root):
    command = [sys.executable, "eval.py", "--estimates", root / "estimates", "--data.root", root / "data"]
    run = subprocess.Popen([*command, "--output", root / "out"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(120) == 0
    assert list(json.loads((root / "out" / "results.json").read_text())["tracks"]) == ["A", "B", "C"]
    assert (root / "out" / "report.html").exists()


def test_a_run_over_fewer_tracks_reports_what_is_kept_of_them(root):
    for name in "DEFG":
        for kind in ("data/test", "estimates"):
            shutil.copytree(root / kind / "A", root / kind / name)
    assert run_on_estimates(root) == 0
    kept = [file.parent.name for file in (root / "out" / "excerpts").rglob("*.npz")]
    assert len(kept) == 5
    dropped = sorted(set("ABCDEFG") - set(kept))[0]
    assert run_on_estimates(root, "--tracks", dropped) == 0
    assert (
        "Its audio was not kept: when its track was scored others were worse"
        in (root / "out" / "report.html").read_text()
    )
