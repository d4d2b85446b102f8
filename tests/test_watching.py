"""What a run tells while it goes: its lines, metrics.jsonl, TensorBoard files and profile."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import tiny_run
from golden_weights import wave
from tensorboardX.proto.event_pb2 import Event

from jaxmss.errors import InputError
from jaxmss.output import duration
from jaxmss.training import watching
from jaxmss.training.config import Watch as WatchConfig
from jaxmss.training.run_directory import claimed
from jaxmss.training.tensorboard import Board
from jaxmss.training.validation import Excerpt, Result
from jaxmss.training.watching import MetricsFile, Watch, read_metrics

RATE = 8000


def config(every=5, profile=(0, 0), steps=20):
    run = tiny_run.config(watch=WatchConfig(every, profile))
    return replace(run, hours=steps * run.data.batch * run.data.seconds / 3600)


def metrics_of(step: int, loss: float | None = None) -> dict[str, jax.Array]:
    counts = {"skipped": jnp.int32(0), "skipped_total": jnp.int32(0)}
    loss = 1 / step if loss is None else loss
    return {"loss": jnp.float32(loss), "learning_rate": jnp.float32(1e-3), "gradient_norm": jnp.float32(2)} | counts


def result(sdr: float = 3.0, excerpts=()) -> Result:
    tracks = {"A": {"vocals": sdr - 1}, "B": {"vocals": sdr + 1}, "C": {"vocals": float("nan")}}
    return Result(tracks, {"vocals": -5.0}, "3 tracks", {"C": "it lacks vocals.wav"}, excerpts, 2.0)


def excerpt() -> Excerpt:
    mixture, vocals, estimate = (0.3 * wave(i, (2, RATE)) for i in range(3))
    return Excerpt("A", RATE, mixture, {"vocals": vocals}, {"vocals": 5 * estimate})


def watched(run, config, first, steps):
    """Take steps `first` + 1 to `steps` in a run's directory."""
    with claimed(run, config), Watch(run, config, first) as watch:
        for step in range(first + 1, steps + 1):
            watch.step(step, metrics_of(step))


def events(run) -> list[Event]:
    """Return what TensorBoard shows: events of the files in order, without those that a later file hides."""
    shown: list[Event] = []
    for path in sorted((run / "tensorboard").glob("events.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            if event.HasField("session_log"):
                shown = [earlier for earlier in shown if earlier.step < event.step]
            shown.append(event)
            content = content[length + 16 :]
    return shown


def points(run, tag: str) -> list[tuple[int, float]]:
    values = [(event.step, value) for event in events(run) for value in event.summary.value if value.tag == tag]
    return [(step, pytest.approx(value.simple_value)) for step, value in values]


def test_a_line_every_few_steps_and_after_the_last_one(tmp_path, capsys):
    watched(tmp_path / "run", config(every=5, steps=12), 0, 12)
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert lines[1]["loss"] == pytest.approx(0.1)
    assert lines[1]["loss_mean"] == pytest.approx(np.mean([1 / step for step in range(6, 11)]))
    assert lines[1]["hours"] == pytest.approx(10 * 2 * 0.5 / 3600)
    assert lines[1]["examples_per_second"] > 0
    assert lines[1]["memory"] > 2**20
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert told[2].startswith("step 10/12  loss 0.1291  lr 0.001  gradient 2  ")
    assert re.search(r"examples/s  0\.00278 h seen  \d+\.\d\d GiB  \d+ s left$", told[2])


def test_a_step_is_told_when_the_next_is_under_way(tmp_path):
    run = config(every=2)
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
        for step in (1, 2):
            watch.step(step, metrics_of(step))
        assert not any("loss" in line for line in read_metrics(tmp_path / "run"))
        watch.step(3, metrics_of(3))
        assert [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line] == [2]
        watch.step(4, metrics_of(4))
        watch.flush()
        assert [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line] == [2, 4]


def test_the_rate_leaves_out_the_time_of_validations(tmp_path):
    run = tmp_path / "run"
    settings = replace(config(), data=replace(config().data, batch=16), watch=WatchConfig(every=2))
    with claimed(run, settings), Watch(run, settings, 0) as watch:
        for step in range(1, 7):
            watch.step(step, metrics_of(step))
            time.sleep(0.1)
            if step in (4, 5):  # where a line is due, and where none is
                watch.flush()
                with watch.paused():
                    time.sleep(0.4)  # the validation, and what follows it
                    watch.validation(step, result())
                    time.sleep(0.4)
    rates = [line["examples_per_second"] / 16 for line in read_metrics(run) if "examples_per_second" in line]
    assert len(rates) == 3
    assert all(4 < rate < 11 for rate in rates)


def test_the_time_left_is_that_of_the_steps_to_come_at_the_pace_of_this_process(tmp_path, capsys, monkeypatch):
    run, clock = config(every=5, steps=20), iter(range(0, 10_000, 10))
    monkeypatch.setattr(watching.time, "perf_counter", lambda: next(clock))
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 8) as watch:  # seconds: 0 at step 9
        for step in range(9, 17):
            watch.step(step, metrics_of(step))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    # 2 steps took 10 s, and 10 are left; 7 took 20 s, and 5 are left
    assert [re.search(r"(\d+) s left$", line)[1] for line in told] == ["50", "14"]


def test_what_is_not_finite_is_valid_json_and_not_averaged(tmp_path, capsys):
    run = config(every=3)
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
        for step, loss in enumerate([2.0, 4.0, float("nan")], start=1):
            watch.step(step, metrics_of(step, loss) | {"skipped_total": jnp.int32(step == 3)})
    content = (tmp_path / "run" / "metrics.jsonl").read_text()
    line = json.loads(content.splitlines()[-1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line["loss"] is None
    assert line["loss_mean"] == 3
    assert "step 3/20, 1 skipped" in capsys.readouterr().err


def test_a_run_taken_up_again_tells_no_step_twice(tmp_path):
    run = config(every=2)
    watched(tmp_path / "run", run, 0, 9)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # killed while it wrote
    watched(tmp_path / "run", run, 4, 20)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == list(range(2, 21, 2))
    assert [line["step"] for line in lines if "started" in line] == [0, 4]
    assert points(tmp_path / "run", "train/loss") == [(step, 1 / step) for step in range(2, 21, 2)]


def test_the_mean_loss_is_that_of_a_run_that_was_not_cut_short(tmp_path):
    run, losses = config(every=5), {step: float("nan") if step == 3 else 1 / step for step in range(1, 11)}

    def watched_from(directory, first: int, last: int) -> None:
        with claimed(directory, run), Watch(directory, run, first) as watch:
            for step in range(first + 1, last + 1):
                watch.step(step, metrics_of(step, losses[step]))
                if step in (2, 4, 8):
                    watch.flush(saved=True)

    watched_from(tmp_path / "whole", 0, 10)
    for first, last in ((0, 3), (2, 4), (4, 9), (8, 10)):  # from the last checkpoint each time
        watched_from(tmp_path / "cut", first, last)
    means = [
        [(line["step"], line["loss_mean"]) for line in read_metrics(tmp_path / name) if "loss_mean" in line]
        for name in ("whole", "cut")
    ]
    assert means[0] == means[1]
    assert [step for step, _ in means[0]] == [5, 10]


def test_lines_of_a_run_that_died_before_its_first_checkpoint_go(tmp_path):
    run = config(every=2)
    watched(tmp_path / "run", run, 0, 5)
    watched(tmp_path / "run", run, 0, 3)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "loss" in line] == [2]
    assert points(tmp_path / "run", "train/loss") == [(2, 0.5)]


def test_a_validation_is_told_everywhere(tmp_path, capsys):
    run = config()
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
        watch.step(1, metrics_of(1))
        watch.validation(1, result())
        watch.step(2, metrics_of(2))
        watch.validation(2, result(4.0))
    first, second = (line["validation"] for line in read_metrics(tmp_path / "run") if "validation" in line)
    assert (first["mean"], second["mean"]) == (3, 4)
    assert first["sdr"] == {"vocals": 3}
    assert first["mixture"] == {"vocals": -5}
    assert first["tracks"] == {"A": {"vocals": 2}, "B": {"vocals": 4}, "C": {"vocals": None}}
    assert first["failed"] == {"C": "it lacks vocals.wav"}
    assert points(tmp_path / "run", "sdr/vocals") == points(tmp_path / "run", "sdr/mean") == [(1, 3), (2, 4)]
    told = capsys.readouterr().err
    assert "step 1: median SDR in dB over 2 tracks: vocals 3.00 (mixture -5.00); 2 s" in told
    assert "step 2: validation of 'C' failed: it lacks vocals.wav" in told


def test_excerpts_can_be_seen_and_heard_and_what_is_fixed_is_written_once(tmp_path):
    run, whole = config(), excerpt()
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
        watch.validation(1, result(excerpts=(whole,)))
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 1) as watch:
        watch.validation(1, result(excerpts=(whole,)))  # told before the end of the process before
        watch.validation(2, result(excerpts=(whole,)))
    values = [(event.step, value) for event in events(tmp_path / "run") for value in event.summary.value]
    sounds = {(step, value.tag): value.audio for step, value in values if value.HasField("audio")}
    estimate, mixture, reference = "A/vocals/estimate", "A/mixture", "A/vocals/reference"
    assert sorted(sounds) == sorted([(1, estimate), (1, mixture), (1, reference), (2, estimate)])
    heard, rate = soundfile.read(io.BytesIO(sounds[1, reference].encoded_audio_string))
    assert rate == RATE
    np.testing.assert_allclose(heard.T, whole.references["vocals"], atol=1e-4)
    loud, _ = soundfile.read(io.BytesIO(sounds[2, estimate].encoded_audio_string))
    np.testing.assert_allclose(loud.T, np.clip(whole.estimates["vocals"], -1, 1), atol=1e-4)
    images = {(step, value.tag): value.image for step, value in values if value.HasField("image")}
    assert set(images) == set(sounds)
    assert {(image.width, image.height) for image in images.values()} == {(RATE // 256 + 1, 256)}
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images.values())


def test_a_validation_that_a_kill_kept_from_tensorboard_is_told_by_the_next_process(tmp_path, monkeypatch):
    run, whole = config(), excerpt()
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch, monkeypatch.context() as patch:
        patch.setattr(Board, "excerpts", killed)
        with pytest.raises(KeyboardInterrupt):
            watch.validation(1, result(excerpts=(whole,)))
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 1) as watch:
        watch.validation(1, result(excerpts=(whole,)))
    sounds = {
        value.tag for event in events(tmp_path / "run") for value in event.summary.value if value.HasField("audio")
    }
    assert sounds == {"A/vocals/estimate", "A/mixture", "A/vocals/reference"}
    assert [line["step"] for line in read_metrics(tmp_path / "run") if "validation" in line] == [1]


def killed(*_, **__):
    raise KeyboardInterrupt


def test_a_track_whose_name_is_no_text_is_shown(tmp_path):
    run, latin = config(), os.fsdecode(b"Caf\xe9")
    named = replace(result(excerpts=(replace(excerpt(), track=latin),)), failed={latin: "it is silent"})
    with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
        watch.validation(1, named)
    tags = {value.tag for event in events(tmp_path / "run") for value in event.summary.value}
    assert r"Caf\udce9/mixture" in tags
    [line] = [line for line in read_metrics(tmp_path / "run") if "validation" in line]
    assert line["validation"]["failed"] == {latin: "it is silent"}


def test_the_config_is_shown_as_it_lies_beside(tmp_path):
    watched(tmp_path / "run", config(), 0, 1)
    (text,) = (value for event in events(tmp_path / "run") for value in event.summary.value if "config" in value.tag)
    shown = text.tensor.string_val[0].decode()
    assert "".join(shown.split()) == "".join((tmp_path / "run" / "config.json").read_text().split())


@pytest.mark.parametrize(("first", "profile"), [(0, (3, 2)), (0, (1, 2)), (3, (2, 4)), (0, (4, 100))])
def test_a_profile_is_written_when_asked_for(tmp_path, first, profile):
    watched(tmp_path / "run", config(profile=profile), first, 6)
    (trace,) = (tmp_path / "run" / "tensorboard").glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 0


def test_no_profile_without_asking_or_after_it(tmp_path):
    watched(tmp_path / "none", config(), 0, 6)
    watched(tmp_path / "after", config(profile=(2, 2)), 3, 6)
    assert not list(tmp_path.glob("*/tensorboard/plugins"))


def test_other_processes_are_silent(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watching.jax, "process_index", lambda: 1)
    with Watch(tmp_path, config(every=1), 0) as watch:
        watch.step(1, metrics_of(1))
        watch.validation(1, result())
        watch.step(2, metrics_of(2))
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


def test_metrics_that_cannot_be_written_are_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl' cannot be written"):
        MetricsFile(tmp_path / "nowhere" / "metrics.jsonl", 0)
    if not (full := watching.Path("/dev/full")).exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "metrics.jsonl").touch()
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file._file = full.open("a")
    with pytest.raises(InputError, match=r"No space left on device; free some space"):
        file.write({"step": 1})


def test_an_error_in_training_is_not_hidden_by_another(tmp_path):
    def interrupted():
        run, gone = config(every=1), metrics_of(1)
        with claimed(tmp_path / "run", run), Watch(tmp_path / "run", run, 0) as watch:
            watch.step(1, gone)
            gone["loss"].delete()  # to fetch it would raise RuntimeError
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
from jaxmss.errors import InputError
from jaxmss.output import duration
from jaxmss.training.tensorboard import Board
board = Board(Path(sys.argv[1]), 0)
try:
    for step in range(1_000):
        board.scalars(step, {"train/loss": 1.0})
except InputError as error:
    board.close()
    print(error)
"""


def test_a_file_that_may_not_grow_ends_the_writing_with_one_clear_line(tmp_path):
    told = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"'.*' cannot be written: File too large; free some space or .*\n", told.stdout), told.stderr


def test_durations_have_two_units():
    assert [duration(s) for s in (59.4, 60.0, 3700.0, 90000.0)] == ["59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]
