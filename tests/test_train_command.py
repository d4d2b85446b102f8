"""The command line of train.py: its help, overrides, and what it says of mistakes."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import kill_process
import pytest
import recordings

from jaxmss.config import to_json
from jaxmss.errors import InputError
from jaxmss.training.command import config_of, main, parse
from jaxmss.training.config import Config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def test_help_lists_every_config_and_starts_no_jax():
    code = """
import runpy, sys
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0
print(sorted({"jax", "flax", "orbax", "soundfile"} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"
    for config in CONFIGS:
        assert re.search(rf"^  configs/{config.name} +\S.{{20,}}", told, re.MULTILINE), config


@pytest.mark.parametrize("program", ["train.py configs/quickstart.py", "eval.py"])
def test_a_reader_that_has_read_enough_gets_no_traceback(program):
    command = f"{sys.executable} {program} --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {program}")
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["quickstart", "demucs", "hdemucs", "htdemucs"])  # of every kind of network
def test_every_field_is_described_in_help(kind, capsys):
    file = ROOT / f"configs/{kind}.py"
    with pytest.raises(SystemExit) as ended:
        parse(file, ["--help"])
    assert ended.value.code == 0
    told = " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    for name in fields(config_of(file)):
        if name == "model.transformer":  # None: the kind of network is the config file's choice
            continue
        assert re.search(rf"--{re.escape(name)}[ |,].{{12,}}? \(default", told), name


def fields(value: object, prefix: str = "") -> list[str]:
    """The names of all fields as options, such as ``optim.lr``."""
    if dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        parts = {str(number): part for number, part in enumerate(value)}
    else:
        return [prefix.replace("_", "-")]
    return [name for key, part in parts.items() for name in fields(part, f"{prefix}.{key}" if prefix else key)]


def test_overrides_reach_every_part_of_a_config():
    given = ["--optim.lr", "5e-4", "--data.batch", "3", "--model.widths", "4", "4", "--run", "elsewhere"]
    parsed = parse(ROOT / "configs/quickstart.py", given)
    assert isinstance(parsed.config, Config)
    assert (parsed.config.optim.lr, parsed.config.data.batch, parsed.config.model.widths) == (5e-4, 3, (4, 4))
    assert parsed.run == Path("elsewhere")
    assert parse(ROOT / "configs/quickstart.py", []).run == Path("runs/quickstart")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quickstart"], "There is no config 'quickstart'; did you mean 'configs/quickstart.py'?"),
        (["configs/cws_vocal.py"], "did you mean 'configs/cws_vocals.py'?"),
        (["README.md"], "'README.md' is no Python file; name a config such as configs/cws_vocals.py"),
        (["train.py"], "'train.py' has no function get_config() that returns a Config"),
        (["configs/cws_small.py", "--data.root", "no/where"], "There is no directory 'no/where"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(arguments, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *(["--run", str(tmp_path / "run")] if len(arguments) > 1 else [])])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: ")
    assert says in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--optim.lrr", "1"], "--optim.lr"),
        (["--optim.lr", "fast"], "could not convert string to float: 'fast'"),
        (["--data.bath", "3"], "--data.batch"),
        (["--data.valid", "train"], "'valid' (='train') cannot be used: validate on other tracks"),
        (["--data.valid", "./train/"], "'valid' (='./train/') cannot be used: validate on other tracks"),
        (["--seed", "99999999999999999999999"], "'seed' (=99999999999999999999999) cannot be used"),
        (["--data.seconds", "0.00001"], "'seconds' (=1e-05) cannot be used"),
        (["--optim.decay-every", "1e9"], "'decay_every' (=1000000000.0) cannot be used: these are more steps than"),
        (["--loss.conserve-after", "9999999999"], "'conserve_after' (=9999999999) cannot be used"),
    ],
)
def test_a_mistake_in_an_override_is_told_with_what_was_meant(given, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["configs/quickstart.py", *given])
    assert ended.value.code == 2
    assert says in " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().err).split())


LITTLE_MEMORY = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_batch_that_the_memory_does_not_hold_gets_a_line(tmp_path):
    recordings.write_songs(tmp_path / "data/train", ["a", "b"], samples=2 * recordings.RATE)
    settings = kill_process.config(tmp_path / "data")
    many = dataclasses.replace(settings, data=dataclasses.replace(settings.data, batch=2**14))
    kill_process.write_config(tmp_path / "config.py", to_json(many))
    command = [sys.executable, "-c", LITTLE_MEMORY, tmp_path / "config.py", "--run", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train.py: the memory does not hold a step of this batch; set --compute.accumulate to 2")
    assert "Traceback" not in done.stderr


def test_a_file_that_gives_something_else_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return {'lr': 1}\n")
    with pytest.raises(InputError, match=r"mine.py' has no function get_config\(\) that returns a Config"):
        config_of(file)
