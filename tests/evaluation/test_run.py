"""`eval.py`: the numbers of museval, what it is given and writes, and what goes wrong with single tracks."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from golden_weights import GOLDEN, wave

from jaxmss import models
from jaxmss.checkpoints import store
from jaxmss.config import SpleeterConfig
from jaxmss.data import STEMS
from jaxmss.evaluation import MEASURES, score_track
from jaxmss.evaluation.excerpts import Worst, find_worst, worst_excerpts
from jaxmss.evaluation.published import figure
from jaxmss.evaluation.separation import model_system
from jaxmss.options import Options
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Part
from jaxmss.training.run_directory import claimed

from .commands import frames, run, run_on_estimates
from .stems import MADE, RATE, change, largest_difference, read_stems, write_stems

REPOSITORY = Path(__file__).parents[2]
SMALL = SpleeterConfig(n_fft=256, hop=64, bins=64, frames_per_chunk=16, widths=(3, 4, 5))


def test_spleeter_on_the_demo_scores_what_museval_scored_the_published_implementation_with(tmp_path):
    command = [sys.executable, "eval.py", "--ckpt", "spleeter-2stems", "--data.root", "demo", "--output", tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "tracks").iterdir()
    scores = frames(file)
    with np.load(GOLDEN / "spleeter-falcon.npz") as golden:
        for measure in MEASURES:
            ours = [scores[stem][measure] for stem in ("vocals", "accompaniment")]
            np.testing.assert_allclose(ours, golden[f"museval_{measure.lower()}"], rtol=0, atol=1e-3)
        vocals = f"{np.median(golden['museval_sdr'][0]):.2f}"
    assert any(line.split()[:2] == ["vocals", vocals] and "6.86 Spleeter" in line for line in done.stdout.splitlines())


def test_files_are_those_that_museval_reads_and_their_medians_are_its_own(root, museval_scores):
    import museval
    from jsonschema import validate

    assert run_on_estimates(root) == 0
    evaluated = museval.EvalStore()
    for file in sorted((root / "out" / "tracks").iterdir()):
        stored = json.loads(file.read_text())
        validate(stored, museval.TrackStore("any").schema)
        evaluated.add_track(museval.json2df(stored, file.stem))
    theirs = evaluated.agg_frames_tracks_scores()
    results = json.loads((root / "out" / "results.json").read_text())
    for stem in MADE:
        for measure in MEASURES:
            ours = results["stems"][stem]["measures"][measure]
            assert ours["median"] == pytest.approx(theirs[stem][measure], abs=1e-9)
            assert ours["tracks"] == 3


def test_scores_of_estimates_are_those_of_the_files(root):
    assert run_on_estimates(root, "--tracks", "B", "--workers", 2) == 0
    expected = score_track(
        read_stems(root / "data" / "test" / "B", MADE), read_stems(root / "estimates" / "B", MADE), RATE
    )
    scores = frames(root / "out" / "tracks" / "B.json")
    for stem in MADE:
        for measure in MEASURES:
            np.testing.assert_allclose(scores[stem][measure], expected[stem][measure], rtol=0, atol=0.6e-5)
    with (root / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["track"], row["stem"]) for row in rows] == [("B", stem) for stem in MADE]
    for row in rows:
        assert float(row["SDR"]) == pytest.approx(np.median(expected[row["stem"]]["SDR"]), abs=1e-5)
        assert np.isfinite([float(row["track SDR"]), float(row["SI-SDR"])]).all()


def test_engine_museval_gives_the_same(root, museval_scores):
    assert run_on_estimates(root, "--limit", 1) == 0
    ours = frames(root / "out" / "tracks" / "A.json")
    more = ("--limit", 1, "--engine", "museval", "--output", root / "theirs")
    assert run("--estimates", root / "estimates", "--data.root", root / "data", *more) == 0
    theirs = frames(root / "theirs" / "tracks" / "A.json")
    for stem in MADE:
        for measure in MEASURES:
            np.testing.assert_allclose(ours[stem][measure], theirs[stem][measure], rtol=0, atol=1e-3)


def test_vocals_alone_are_scored_beside_the_rest_of_the_mixture(root):
    for file in root.glob("estimates/*/drums.wav"):
        file.unlink()
    assert run_on_estimates(root, "--limit", 1) == 0
    references = read_stems(root / "data" / "test" / "A", [*STEMS, "mixture"])
    references["accompaniment"] = references["drums"] + references["bass"] + references["other"]
    estimates = read_stems(root / "estimates" / "A", ["vocals"])
    estimates["accompaniment"] = references["mixture"] - estimates["vocals"]
    expected = score_track({stem: references[stem] for stem in estimates}, estimates, RATE)
    scores = frames(root / "out" / "tracks" / "A.json")
    assert list(scores) == ["vocals", "accompaniment"]
    for stem in scores:
        for measure in MEASURES:
            np.testing.assert_allclose(scores[stem][measure], expected[stem][measure], rtol=0, atol=0.6e-5)


def drawn(config, seed):
    """Draw weights and statistics, none of them negative, for variances must not be."""
    return jax.tree.map(lambda leaf: np.abs(wave(seed, leaf.shape)), models.variable_shapes(config))


def test_checkpoints_are_compared_each_in_its_folder_at_the_rate_of_the_tracks(root, capsys):
    for seed, name in enumerate(("first", "second")):
        store.save(root / name, SMALL, drawn(SMALL, seed))
    more = ("--data.root", root / "data", "--limit", 1, "--output", root / "out")
    assert run("--ckpt", f"{root / 'first'},{root / 'second'}", *more) == 0
    printed = capsys.readouterr().out
    sdr = {}
    for name in ("first", "second"):
        scores = frames(root / "out" / name / "tracks" / "A.json")
        assert list(scores) == ["vocals", "accompaniment"]
        assert all(len(scores[stem]["SDR"]) == 3 for stem in scores)
        sdr[name] = f"{np.median(scores['vocals']['SDR']):.2f}"
        results = json.loads((root / "out" / name / "results.json").read_text())
        assert results["times_real_time"] > 0
        assert results["config"]["checkpoint"] == str(root / name)
    table = [line.split() for line in printed.splitlines()]
    assert all(any(row[:2] == [name, figure_] for row in table) for name, figure_ in sdr.items())


def test_estimates_that_are_cut_or_padded_are_named(root, capsys):
    change(root / "estimates" / "A" / "drums.wav", lambda x: x[:-7])
    change(root / "estimates" / "B" / "vocals.wav", lambda x: np.pad(x, [(0, 9), (0, 0)]))
    assert run_on_estimates(root, "--fit-length") == 0
    printed = capsys.readouterr().out
    assert "fitted: A: drums was 7 samples short, padded" in printed
    assert "fitted: B: vocals was 9 samples long, cut" in printed
    fitted = json.loads((root / "out" / "results.json").read_text())["fitted"]
    assert fitted == {"A": "drums was 7 samples short, padded", "B": "vocals was 9 samples long, cut"}
    assert "drums was 7 samples short" in (root / "out" / "report.html").read_text()


DAMAGE = {
    "estimate silent": (lambda _, est: change(est / "drums.wav", lambda x: 0 * x), "of 'drums' is silent throughout"),
    "reference missing": (lambda ref, _: (ref / "vocals.wav").unlink(), "lacks vocals.wav"),
    "mixture damaged": (lambda ref, _: (ref / "mixture.wav").write_bytes(b"RIFF"), "mixture.wav' is"),
    "estimate short": (lambda _, est: change(est / "drums.wav", lambda x: x[:-7]), "'drums' has 1 channels and 6092 s"),
    "estimate stereo": (lambda _, est: change(est / "drums.wav", lambda x: x.repeat(2, 1)), "'drums' has 2 channels"),
    "estimate infinite": (lambda _, est: change(est / "drums.wav", lambda x: x / 0), "NaN or infinite"),
    "no estimates": (lambda _, est: [file.unlink() for file in est.iterdir()], "lacks drums.wav, vocals.wav, which"),
    "one estimate": (lambda _, est: (est / "drums.wav").unlink(), "one estimate' lacks drums.wav, which other tracks"),
    "no folder": (lambda _, est: est.rename(est.with_name("renamed")), "no estimates of track 'no folder'"),
    "rates differ": (lambda _, est: write_stems(est, {"drums": np.zeros((1, 9))}, 8000), "have different rates: "),
    "rate": (
        lambda _, est: write_stems(est, dict.fromkeys(MADE, np.zeros((1, 9))), 8000),
        "have 8000 Hz, the track 2000 Hz",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_tracks_that_fail_are_named_and_the_others_are_scored(root, capsys):
    for name, (damage, _) in DAMAGE.items():
        folders = [root / kind / name for kind in ("data/test", "estimates")]
        for folder in folders:
            shutil.copytree(folder.with_name("A"), folder)
        damage(*folders)
    assert run_on_estimates(root, "--tracks", ",".join(["A", *DAMAGE, "B"])) == 1
    results = json.loads((root / "out" / "results.json").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert list(results["tracks"]) == ["A", "B"]
    assert list(results["failed"]) == list(DAMAGE)
    for name, (_, message) in DAMAGE.items():
        assert message in results["failed"][name]
        assert f"failed: {name}: {results['failed'][name]}" in printed


def test_stems_that_the_data_lacks_are_said_to_be_left_out(root, capsys):
    for folder in (root / "estimates").iterdir():
        shutil.copy(folder / "drums.wav", folder / "piano.wav")
    assert run_on_estimates(root, "--limit", 1) == 0
    assert "Not scored, for the data has no such stems: piano\n" in capsys.readouterr().out
    assert list(frames(root / "out" / "tracks" / "A.json")) == list(MADE)


def test_stems_of_any_name_are_scored(root):
    for folder in ("data/test", "estimates"):
        for track in (root / folder).iterdir():
            (track / "drums.wav").rename(track / "tabla.wav")
    assert run_on_estimates(root, "--limit", 1) == 0
    assert set(frames(root / "out" / "tracks" / "A.json")) == {"tabla", "vocals"}


def test_scores_go_to_a_folder_of_the_systems_name_unless_told_otherwise(root, monkeypatch):
    monkeypatch.chdir(root)
    (root / "estimates").rename(root / "theirs")
    assert run("--estimates", "theirs", "--data.root", "data", "--limit", 1) == 0
    assert (root / "scores" / "theirs" / "report.html").exists()


def test_folders_that_are_no_tracks_do_not_change_what_is_scored(root):
    shutil.copytree(root / "estimates" / "A", root / "estimates" / "older")
    (root / "estimates" / "older" / "drums.wav").rename(root / "estimates" / "older" / "bass.wav")
    assert run_on_estimates(root, "--limit", 1) == 0
    assert set(frames(root / "out" / "tracks" / "A.json")) == set(MADE)


def test_an_empty_folder_among_the_tracks_fails_by_name(root, capsys):
    (root / "data" / "test" / "Z half unpacked").mkdir()
    assert run_on_estimates(root) == 1
    assert "failed: Z half unpacked: There are no estimates of track" in capsys.readouterr().out
    (root / "estimates" / "Z half unpacked").mkdir()
    for stem in MADE:
        shutil.copy(root / "estimates" / "A" / f"{stem}.wav", root / "estimates" / "Z half unpacked")
    assert run_on_estimates(root) == 1
    assert "failed: Z half unpacked: Track 'Z half unpacked' lacks " in capsys.readouterr().out


def test_names_that_no_text_can_hold_are_scored_and_reported(root):
    for folder in (root / "data" / "test", root / "estimates"):
        os.rename(os.fsencode(folder / "A"), os.fsencode(folder) + b"/caf\xe9")
    command = [sys.executable, "eval.py", "--estimates", root / "estimates", "--data.root", root / "data"]
    utf8 = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([*command, "-o", root / "out"], cwd=REPOSITORY, env=utf8, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9: SDR" in done.stdout
    for file in ("results.csv", "report.html"):
        assert "caf\\udce9" in (root / "out" / file).read_text()


def test_lengths_are_made_equal_on_request_alone(root):
    change(root / "estimates" / "A" / "drums.wav", lambda x: x[:-7])
    assert run_on_estimates(root, "--limit", 1, "--fit-length") == 0
    references, estimates = (read_stems(root / kind / "A", MADE) for kind in ("data/test", "estimates"))
    estimates["drums"] = np.pad(estimates["drums"], [(0, 0), (0, 7)])
    expected = score_track(references, estimates, RATE)["drums"]["SDR"]
    ours = frames(root / "out" / "tracks" / "A.json")["drums"]["SDR"]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=0.6e-5)


def test_a_stem_alone_of_another_length_is_refused_as_such(root, capsys):
    for stem in set(MADE) - {"vocals"}:
        for track in "ABC":
            (root / "estimates" / track / f"{stem}.wav").unlink()
    change(root / "estimates" / "A" / "vocals.wav", lambda x: x[:-7])
    assert run_on_estimates(root, "--limit", 1) == 1
    assert "make them equal (--fit-length cuts or pads as museval does)" in capsys.readouterr().out
    assert run_on_estimates(root, "--limit", 1, "--fit-length", "--output", root / "fitted") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Give either --ckpt NAME|DIRECTORY or --estimates DIRECTORY"),
        ("--ckpt cws-vocals --estimates {root}/estimates", "Give either --ckpt"),
        ("--estimates {root}/nowhere", "There is no directory"),
        ("--ckpt cws-vocal", "'cws-vocal' is neither a checkpoint directory nor a published model; did you mean"),
        (
            "--estimates {root}/data/test/A",
            "holds no estimates of bass, drums, other, vocals, accompaniment, and no <track>/",
        ),
        ("--ckpt spleeter-2stems,", "--ckpt 'spleeter-2stems,' holds an empty name"),
        ("--estimates {root}/estimates --data.split empty", "empty' holds no tracks"),
        ("--estimates {root}/estimates --tracks D", "There is no track 'D': the data holds A, B, C"),
        ("--estimates {root}/estimates --limit 0", "limit is 0"),
        ("--estimates {root}/estimates --workers 0", "workers is 0"),
        ("--estimates {root}/estimates --data.split train", "holds no split 'train': it holds empty, test"),
        ("--estimates {root}/estimates --overlap 0.7", "overlap"),
        ("--estimates {root}/estimates --output {root}/data/test/A/bass.wav", "cannot be written"),
        ("--estimates {root}/estimates --output {root}/eval.txt", "File exists; choose another name"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(root, capsys, arguments, message):
    given = arguments.format(root=root).split()
    (root / "data" / "empty").mkdir()
    (root / "eval.txt").touch()
    defaults = ["--data.root", root / "data", *(["--output", root / "out"] if "--output" not in given else [])]
    assert run(*defaults, *given) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("eval.py: ")
    assert message in line


def test_a_checkpoint_of_stems_that_the_data_lacks_is_refused(root, capsys):
    config = SpleeterConfig(**{**vars(SMALL), "sources": ("vocals", "guitar")})
    store.save(root / "guitar", config, drawn(config, 0))
    assert run("--ckpt", root / "guitar", "--data.root", root / "data", "--output", root / "out") == 2
    assert "separates guitar, which the data lacks" in capsys.readouterr().err


def test_scores_of_weights_that_were_replaced_are_not_taken_for_those_of_others(root, capsys):
    config = SpleeterConfig(**{**vars(SMALL), "sources": ("vocals",)})
    arguments = ("--ckpt", root / "mine", "--data.root", root / "data", "--output", root / "out", "--limit", 1)
    for seed, status in ((0, 0), (0, 0), (1, 2)):
        shutil.rmtree(root / "mine", ignore_errors=True)
        store.save(root / "mine", config, drawn(config, seed))
        assert run(*arguments) == status
    printed = capsys.readouterr()
    assert "1 of 1 tracks were done before" in printed.out
    assert "holds results of another evaluation (weights " in printed.err


def test_checkpoints_of_a_training_run_are_told_apart_by_their_steps(tmp_path):
    config, run = tiny_run.config(), tmp_path / "my-run"
    with claimed(run, config), RunCheckpoints(run, config.checkpoints, "") as checkpoints:
        for step, sdr in ((2, 5.0), (4, 3.0)):
            tiny_run.save(checkpoints, step, tiny_run.state(config, step), sdr)
    for name, step in (("", "@2"), ("@last", "@4"), ("@4@raw", "@4@raw")):
        system = model_system(f"{run}{name}", Options(), "float32", ["vocals", "accompaniment"])
        assert system.name == f"my-run{step}"
        assert system.identity["checkpoint"] == f"{run}{step}"


def test_a_run_is_scored_against_the_sums_of_stems_that_it_was_trained_on_or_stems_of_its_sources_names(root, capsys):
    parts = (Part("voice", ("vocals",)), Part("band", ("bass+drums", "other", "drums")))
    base = tiny_run.config()
    sources = replace(base.model, sources=("voice", "band"))
    config = replace(base, model=sources, data=replace(base.data, parts=parts))
    with claimed(root / "my-run", config), RunCheckpoints(root / "my-run", config.checkpoints, "") as checkpoints:
        tiny_run.save(checkpoints, 2, tiny_run.state(config, 2), None)
    for track in "ABC":
        stems = read_stems(root / "data" / "test" / track, (*STEMS, "mixture"))
        band = stems["bass"] + stems["drums"] + stems["other"]
        summed = {"voice": stems["vocals"], "band": band, "mixture": stems["mixture"]}
        write_stems(root / "summed" / "test" / track, summed)
    for data in ("data", "summed"):
        assert run("--ckpt", root / "my-run", "--data.root", root / data, "--output", root / "out" / data) == 0
    assert capsys.readouterr().out.count("band is scored as bass + drums + other") == 1
    for file in sorted((root / "out" / "data" / "tracks").iterdir()):
        scores, same = frames(file), frames(root / "out" / "summed" / "tracks" / file.name)
        assert largest_difference(scores, same, MEASURES) == dict.fromkeys(MEASURES, 0.0)
        assert list(scores) == ["voice", "band"]


@pytest.mark.parametrize("engine", ["jaxmss", "museval"])
def test_vocals_alone_are_scored_where_tracks_hold_no_accompaniment(root, engine):
    for track in "ABC":
        for stem in ("bass", "other"):
            (root / "data" / "test" / track / f"{stem}.wav").unlink()
        (root / "estimates" / track / "drums.wav").unlink()
    assert run_on_estimates(root, "--engine", engine) == 0
    scores = frames(root / "out" / "tracks" / "B.json")
    references, estimates = (root / part / "B" for part in ("data/test", "estimates"))
    alone = score_track(read_stems(references, ["vocals"]), read_stems(estimates, ["vocals"]), RATE)
    assert largest_difference(scores, alone, ["SDR", "ISR"]) == pytest.approx({"SDR": 0, "ISR": 0}, abs=1e-3)


def test_worst_excerpt_is_where_the_median_over_five_seconds_is_lowest():
    rng = np.random.default_rng(0)
    scores = {stem: {"SDR": rng.normal(5, 1, 20)} for stem in ("vocals", "drums")}
    scores["vocals"]["SDR"][3] = -80  # a single frame decides nothing
    scores["drums"]["SDR"][11:16] -= [20, 20, np.nan, 20, 20]
    worst, second = find_worst(scores)
    assert (worst.stem, second.stem) == ("drums", "vocals")
    assert worst.sdr < second.sdr
    assert 9 <= worst.frame <= 13
    assert worst.sdr == np.nanmedian(scores["drums"]["SDR"][worst.frame : worst.frame + 5])
    assert find_worst({"vocals": {"SDR": np.array([np.nan])}}) == []
    assert find_worst({"vocals": {"SDR": np.array([1.0, 2.0])}}) == [Worst("vocals", 0, 1.5)]


def test_the_five_worst_excerpts_are_of_any_track_and_stem_and_come_worst_first():
    def scores(vocals: float, drums: float) -> list[Worst]:
        return find_worst({"vocals": {"SDR": np.full(9, vocals)}, "drums": {"SDR": np.full(9, drums)}})

    worst = worst_excerpts({"A": scores(3.0, 1.0), "B": scores(9.0, 8.0), "C": scores(2.0, 5.0), "D": scores(7.0, 4.0)})
    assert [(track, excerpt.stem, excerpt.sdr) for track, excerpt in worst] == [
        *[("A", "drums", 1.0), ("C", "vocals", 2.0), ("A", "vocals", 3.0), ("D", "drums", 4.0), ("C", "drums", 5.0)]
    ]


def test_published_figure_is_the_systems_own_or_the_best():
    assert figure("spleeter-2stems", "vocals") == ("Spleeter", 6.86)
    assert figure("cws-joint", "other") == ("CWS-PResUNet", 5.84)
    assert figure("spleeter-2stems", "accompaniment") == ("ResUNetDecouple+", 16.63)
    assert figure("my-run", "drums") == ("D3Net", 7.01)
    assert figure("my-run", "guitar") is None


def test_processes_that_score_import_no_jax():
    program = "import sys, jaxmss.evaluation.scoring; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"
