from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
from audio.files import music

from jaxmss import cli, console
from jaxmss.audio.reading import open_audio
from jaxmss.separator import separate

COMMAND = [sys.executable, "-m", "jaxmss.cli"]
VOCALS, JOINT = "cws-small", "cws-joint"


def jaxmss(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return its exit status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def song(tmp_path) -> Path:
    soundfile.write(tmp_path / "song.wav", music(1.5).T, 44100, subtype="FLOAT")
    return tmp_path / "song.wav"


def long_song(folder: Path) -> Path:
    """Ten minutes: nobody waits for its end."""
    soundfile.write(folder / "long.wav", np.tile(music(10.0, 8000, 1).T, (60, 1)), 8000)
    return folder / "long.wav"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_one_line(text: str, *parts: str) -> None:
    assert text.startswith("jaxmss: ")
    assert text.count("\n") == 1
    for part in parts:
        assert part in text


# the main job


def test_a_file_is_separated_into_stems_and_programs_are_kept_for_the_next_process(song, tmp_path):
    programs = tmp_path / "cache/programs"
    # JAX keeps what takes a second to compile, which these programs do on some machines alone
    environment = {"JAXMSS_CACHE": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **environment}
    options = ["--model", tiny.checkpoint(JOINT), "--format", "wav32f", "--clipping", "none", "-o", tmp_path / "out"]
    first = jaxmss("separate", song, *options, env=environment)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"{song}: 1.5 s in " in first.stdout
    assert f"1 of 1 in {tmp_path / 'out'}" in first.stdout
    for source, expected in zip(("bass", "drums", "other"), separate(tiny.model(JOINT), music(1.5)), strict=True):
        stem = soundfile.read(tmp_path / f"out/song/{source}.wav", dtype="float32")[0].T
        np.testing.assert_allclose(stem, expected, rtol=0, atol=1e-5)

    kept = names(programs)
    assert any(name.startswith("jit_apply") for name in kept)
    soundfile.write(tmp_path / "other.flac", music(0.7, 48000).T, 48000)
    second = jaxmss("separate", tmp_path / "other.flac", *options, env=environment)
    assert second.returncode == 0
    assert names(programs) == kept


def test_stems_are_chosen_and_said_to_be_kept(run, song, tmp_path):
    arguments = ["separate", song, "-o", tmp_path / "out", "--model", tiny.checkpoint(JOINT), "--stems", "other, bass"]
    status, out, _ = run(*arguments)
    assert status == 0
    assert "samples beyond full scale: " in out
    assert "what was written is scaled by 0." in out
    assert names(tmp_path / "out") == ["song", "song/bass.wav", "song/other.wav"]
    status, out, _ = run(*arguments)
    assert status == 0
    assert f"{song}: kept, its stems exist already (--overwrite replaces them)" in out


def test_two_stems_sum_to_the_mixture(run, song, tmp_path):
    model = ["--model", tiny.checkpoint(VOCALS), "--format", "wav32f", "--clipping", "none"]
    status, _, _ = run("separate", song, "-o", tmp_path, *model, "--two-stems", "vocals")
    assert status == 0
    stems = [soundfile.read(tmp_path / f"song/{name}.wav")[0] for name in ("vocals", "no_vocals")]
    np.testing.assert_allclose(sum(stems), music(1.5).T, rtol=0, atol=1e-6)


def test_bad_files_are_told_at_the_end_with_status_1_and_all_bad_with_2(run, song, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"")
    model = ["--model", tiny.checkpoint(VOCALS), "-o", tmp_path / "out"]
    status, out, err = run("separate", tmp_path / "missing.mp3", tmp_path / "bad.wav", song, *model)
    assert status == 1
    assert "1 of 3 in" in out
    missing, empty = err.splitlines()
    assert "missing.mp3' does not exist" in missing
    assert "bad.wav' is empty" in empty
    assert names(tmp_path / "out") == ["song", "song/vocals.wav"]
    status, out, err = run("separate", tmp_path / "bad.wav", *model)
    assert status == 2
    assert_one_line(err, "bad.wav", "empty")
    assert out == ""


def test_names_that_the_terminal_cannot_show_are_no_obstacle(song, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xe6\x97\xa5.wav"))
    song.rename(odd)
    done = jaxmss("separate", odd, "-o", tmp_path / "out", "--model", tiny.checkpoint(VOCALS), env=ascii_terminal())
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / odd.stem / "vocals.wav").exists()


def ascii_terminal() -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "ascii"}


# mistakes


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model", "cws-vocal"], ["'cws-vocal' is neither", "did you mean 'cws-vocals'?"]),
        (["--stems", "vocls"], ["no stem 'vocls'", "did you mean 'vocals'?"]),
        (["--stems", ""], ["no stem ''"]),
        (["--two-stems", "vocal"], ["no stem 'vocal'", "did you mean 'vocals'?"]),
        (["--stems", "vocals", "--two-stems", "vocals"], ["exclude each other"]),
        (["--format", "wav61"], ["no format 'wav61'", "did you mean 'wav16'?"]),
        (["--clipping", "clam"], ["no clipping 'clam'", "did you mean 'clamp'?"]),
        (["--clipping", "none"], ["wav32f"]),
        (["--segment", "0"], ["'segment' (=0.0)"]),
        (["--segment", "nan"], ["'segment' (=nan)"]),
        (["--segment", "inf"], ["'segment' (=inf)"]),
        (["--segment", "1e9"], ["'segment' (=1000000000.0)"]),
        (["--segment", "1e-9"], ["'segment' (=0)", "at least one sample"]),
        (["--context", "-1"], ["'context' (=-1.0)"]),
        (["--overlap", "0.9"], ["'overlap' (=0.9)"]),
        (["--shifts", "0"], ["'shifts' (=0)"]),
        (["--batch-size", "0"], ["'batch_size' (=0)"]),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(run, song, tmp_path, arguments, parts):
    model = [] if "--model" in arguments else ["--model", tiny.checkpoint(VOCALS)]
    status, out, err = run("separate", song, "-o", tmp_path / "out", *model, *arguments)
    assert status == 2
    assert out == ""
    assert_one_line(err, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "separate"),
        (["seperate"], "seperate"),
        (["separate", "song.wav"], "--output"),
        (["separate", "song.wav", "-o", "out", "--shift", "2"], "--shift"),
        (["separate", "song.wav", "-o", "out", "--segment", "ten"], "ten"),
        (["separate", "song.wav", "-o", "out", "--dtype", "float16"], "float16"),
    ],
)
def test_an_argument_that_cannot_be_read_is_quoted_with_status_2(run, arguments, told):
    status, out, err = run(*arguments)
    assert status == 2
    assert told in out + err
    assert "Traceback" not in err


def test_no_input_is_a_mistake(run, tmp_path):
    status, _, err = run("separate", "-o", tmp_path / "out")
    assert status == 2
    assert_one_line(err, "No input")


def remove_weights(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "weights")


def cut_weights(checkpoint: Path) -> None:
    for file in (checkpoint / "weights").rglob("*"):
        if file.is_file():
            file.write_bytes(b"garbage")


def remove_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()


def cut_config(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    config.write_text(config.read_text()[:100])


def rename_field(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace('"hop"', '"hopp"'))


def of_another_network(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["config"]["blocks"] = 2
    (checkpoint / "config.json").write_text(json.dumps(config))


def of_another_kind(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace("ResUNetConfig", "Transformer"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove_weights, "is damaged: it holds 0 of "),
        (cut_weights, "is damaged: it holds 7 of "),
        (remove_config, "holds no config.json"),
        (cut_config, "config.json is not the config"),
        (rename_field, "'hopp' is not one of ResUNetConfig; did you mean 'hop'?"),
        (of_another_network, "damaged or of another network"),
        (of_another_kind, "config.json is not the config"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_gets_one_line(run, song, tmp_path, damage, told):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny.checkpoint(VOCALS), checkpoint)
    damage(checkpoint)
    status, _, err = run("separate", song, "-o", tmp_path / "out", "--model", checkpoint)
    assert status == 2
    assert_one_line(err, str(checkpoint), told)
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_fetched_get_one_line(song, tmp_path):
    unreachable = {**os.environ, "https_proxy": "http://127.0.0.1:9", "JAXMSS_CACHE": str(tmp_path / "cache")}
    ended = jaxmss("separate", song, "-o", tmp_path / "out", "--model", "cws-vocals", env=unreachable)
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "cannot fetch https://zenodo.org/", "try again")
    assert not (tmp_path / "out").exists()


# what ends a run early


def started(*arguments: object) -> tuple[subprocess.Popen, Path]:
    """A process that has begun to write the stems of a long file, and their folder."""
    process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder = Path(arguments[arguments.index("-o") + 1]) / "long"
    deadline = time.monotonic() + 60
    while not any(folder.glob(".jaxmss-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, folder


@pytest.mark.parametrize(
    ("clipping", "sign"), [("clamp", signal.SIGINT), ("rescale", signal.SIGINT), ("rescale", signal.SIGTERM)]
)
def test_ctrl_c_and_sigterm_leave_what_is_finished_and_nothing_else(song, tmp_path, clipping, sign):
    out = tmp_path / "out"
    options = ["-o", out, "--model", tiny.checkpoint(VOCALS), "--clipping", clipping]
    process, folder = started("separate", song, long_song(tmp_path), *options)
    time.sleep(1.0)
    sent = time.monotonic()
    process.send_signal(sign)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - sent < 5
    assert_one_line(err.decode(), "interrupted")
    assert not folder.exists()
    assert names(out) == ["song", "song/vocals.wav"]
    assert soundfile.info(out / "song/vocals.wav").frames == 66150


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_does_not_wait_for_many_shifts(tmp_path, times):
    options = ["-o", tmp_path / "out", "--model", tiny.checkpoint(VOCALS), "--shifts", "1000"]
    process, folder = started("separate", long_song(tmp_path), *options)
    time.sleep(3.0)
    sent = time.monotonic()
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - sent < 5  # a thousand windows take half a minute
    assert_one_line(err.decode(), "interrupted")
    assert not folder.exists()


def test_a_killed_process_leaves_no_stem_and_can_be_repeated(tmp_path):
    path = long_song(tmp_path)
    options = ["-o", tmp_path / "out", "--model", tiny.checkpoint(VOCALS)]
    process, folder = started("separate", path, *options)
    process.kill()
    process.communicate()
    assert not list(folder.glob("*.wav"))
    soundfile.write(path, music(0.5, 8000, 1).T, 8000)
    assert jaxmss("separate", path, *options).returncode == 0
    assert soundfile.info(folder / "vocals.wav").frames == 4000


@pytest.mark.parametrize("clipping", ["clamp", "rescale"])
def test_a_full_disk_gets_one_line_and_leaves_nothing(tmp_path, clipping):
    soundfile.write(tmp_path / "big.wav", music(20.0).T, 44100)  # 3.5 MB
    options = ["-o", tmp_path / "out", "--model", tiny.checkpoint(VOCALS), "--clipping", clipping]
    arguments = list(map(str, ["separate", tmp_path / "big.wav", *options]))
    code = f"""
import resource
from jaxmss.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main({arguments!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2
    assert_one_line(ended.stderr, "big", "vocals.wav' cannot be written", "free some space")
    assert not (tmp_path / "out").exists()


# what it costs


def peak_megabytes(path: Path, checkpoint: Path, out: Path) -> float:
    code = f"""
import resource, sys
from jaxmss.cli import main
try:
    main(["separate", {str(path)!r}, "-o", {str(out)!r}, "--model", {str(checkpoint)!r}, "--two-stems", "vocals"])
except SystemExit as ended:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    sys.exit(ended.code)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    return float(ended.stdout.splitlines()[-1])


def test_a_long_file_takes_the_memory_of_a_short_one(tmp_path):
    checkpoint = tiny.save(tmp_path / "telephone", VOCALS, sample_rate=8000, segment=20.0)
    path = tmp_path / "noise.wav"
    peaks = []
    for minutes in (1, 30):
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for _ in range(minutes):
                file.write(music(60.0, 8000, 1).T)
        peaks.append(peak_megabytes(path, checkpoint, tmp_path / f"out{minutes}"))
        assert soundfile.info(tmp_path / f"out{minutes}/noise/no_vocals.wav").frames == minutes * 60 * 8000
    # the samples of half an hour alone are 58 MB as float32, those of the stems 115 MB
    assert peaks[1] - peaks[0] < 30


def test_help_and_import_start_nothing_that_they_do_not_need():
    code = """
import sys
import jaxmss
from jaxmss.cli import main
try:
    main(["separate", "--help"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {"jax", "jaxlib", "flax", "orbax", "musdb", "museval", "scipy", "soundfile", "av", "tensorflow_datasets"}
print(sorted(heavy & set(sys.modules)))
"""
    times = []
    for _ in range(3):
        start = time.monotonic()
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        times.append(time.monotonic() - start)
        assert told.splitlines()[-1] == "[]"
        assert "--two-stems" in told
    assert min(times) < 1.0


# progress


def test_a_terminal_is_shown_progress_and_speed(tmp_path):
    soundfile.write(tmp_path / "song.wav", music(8.0).T, 44100)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(
        [*COMMAND, "separate", tmp_path / "song.wav", "-o", tmp_path / "out", "--model", tiny.checkpoint(VOCALS)],
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += (part := os.read(ours, 4096))
        except OSError:  # the other end is closed
            break
        if not part:
            break
    os.close(ours)
    process.communicate()
    assert process.returncode == 0
    assert "song.wav " in shown.decode()
    assert "/8 s" in shown.decode()
    assert "x real time" in shown.decode()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("hint", "shown"), [(None, "s 2 s, "), (1.0, "100% |"), (8.0, "25% |")])
def test_progress_needs_no_true_duration(monkeypatch, song, hint, shown):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with open_audio(song) as reader:
        reader.duration_hint = hint
        bar = console.Bar(reader, "s")
        for _ in range(2):
            time.sleep(0.11)  # the display is not renewed more often than every 0.1 s
            bar.update(1.0)
        bar.close()
    assert shown in sys.stderr.getvalue()


def test_a_reader_of_the_output_may_leave():
    with subprocess.Popen([*COMMAND, "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_models_lists_architectures_and_published_weights(run):
    status, out, _ = run("models")
    assert status == 0
    for name in ("cws-vocals", "mobilenet-subband-accompaniment", "spleeter-2stems", "zenodo.org/record/5175846"):
        assert name in out
