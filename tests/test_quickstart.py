"""The quick start as a newcomer runs it, on a few short songs: make data, train, score, separate, by the commands."""

import json
import subprocess
import sys
from pathlib import Path

import soundfile

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, where: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_trained_checkpoint_is_scored_and_separates(tmp_path):
    python, jaxmss = sys.executable, (sys.executable, "-m", "jaxmss.cli")
    run(*jaxmss, "data", "synth", "songs", "--songs", "2", "--seconds", "4", where=tmp_path)
    run(*jaxmss, "data", "check", "songs", where=tmp_path)

    steps = 6
    hours = steps * 2 * 3 / 3600
    train = (python, ROOT / "train.py", ROOT / "configs" / "quickstart.py", "--data.root", "songs", "--data.batch", "2")
    report = run(*train, "--hours", str(hours), "--validation.every", "6", where=tmp_path)
    assert "best - mixture" in report
    told = json.loads((tmp_path / "runs" / "quickstart" / "report.json").read_text())
    assert told["last"]["step"] == steps

    evaluate = (python, ROOT / "eval.py", "--ckpt", "runs/quickstart@last", "--data.root", "songs")
    table = run(*evaluate, "--output", "scores", where=tmp_path)
    assert "vocals" in table
    [track] = (tmp_path / "scores" / "tracks").glob("*.json")
    assert json.loads(track.read_text())["targets"]
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["system"] == "quickstart@6"

    mixture = tmp_path / "songs" / "test" / "test song 001" / "mixture.wav"
    run(*jaxmss, "separate", mixture, "-o", "stems", "--model", "runs/quickstart", where=tmp_path)
    [stem] = (tmp_path / "stems").rglob("vocals.wav")
    assert soundfile.info(stem).frames == soundfile.info(mixture).frames
