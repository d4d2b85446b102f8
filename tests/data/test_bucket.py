"""Prepared data in a bucket of Google Cloud Storage: its protocol, spoken by a real server on 127.0.0.1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import kill_process
import pytest
import recordings

from jaxmss.config import to_json
from jaxmss.training.watching import read_metrics

TESTS = Path(__file__).parents[1]
JAXMSS = (sys.executable, "-m", "jaxmss.cli", "data")
BUCKET = "gs://bucket/prepared"


@pytest.fixture(scope="module")
def environment():
    """The variables by which the clients, gcsfs and ArrayRecord, find the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, TESTS / "gcs_server.py", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        address = f"http://127.0.0.1:{port}"
        yield {**os.environ, "STORAGE_EMULATOR_HOST": address, "CLOUD_STORAGE_EMULATOR_ENDPOINT": address}
        server.kill()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    recordings.write_songs(folder / "train", ["a", "b"], samples=2 * recordings.RATE)
    return folder


@pytest.fixture(scope="module")
def built(environment, source) -> str:
    return ended(*JAXMSS, "build", source, BUCKET, environment=environment)


def ended(*command: object, environment: dict[str, str], status: int = 0) -> str:
    """Run a command; return what it prints."""
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_what_is_built_in_a_bucket_is_checked_and_trained_on_as_the_folder_is(environment, source, built, tmp_path):
    assert f"Wrote {BUCKET}/musdb18_hq/1.0.0: tracks 2 in train; it reads back equal." in built
    told = ended(*JAXMSS, "check", BUCKET, environment=environment, status=1)
    assert f"{recordings.RATE} Hz; resample to 44100 Hz\n" in told
    assert "2 tracks (2 in train)" in told
    losses = []
    for number, root in enumerate((source, BUCKET)):
        config, run = tmp_path / f"{number}.py", tmp_path / f"run{number}"
        settings = kill_process.config(root)
        settings = kill_process.replace(settings, hours=3 * settings.data.batch * settings.data.seconds / 3600)
        kill_process.write_config(config, to_json(settings))
        ended(sys.executable, TESTS.parent / "train.py", config, "--run", run, environment=environment)
        losses.append([line["loss"] for line in read_metrics(run) if "loss" in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_what_is_there_is_not_overwritten(environment, source, built):
    told = ended(*JAXMSS, "build", source, BUCKET, environment=environment, status=2)
    assert told == f"jaxmss: '{BUCKET}' holds a prepared data set; remove it or choose another destination\n"


@pytest.mark.parametrize("address", ["gs://bucket/nothing", "gs://none/prepared"])
def test_an_address_without_data_gets_a_line(environment, address):
    told = ended(*JAXMSS, "check", address, environment=environment, status=2)
    assert told == f"jaxmss: '{address}' holds no prepared data set; make one by `jaxmss data build DIR {address}`\n"


def test_the_package_that_is_needed_is_named(environment):
    without = "import sys; sys.modules['gcsfs'] = None; from jaxmss.cli import main; main()"
    told = ended(sys.executable, "-c", without, "data", "check", BUCKET, environment=environment, status=2)
    assert told == f"jaxmss: '{BUCKET}' can be used with the package gcsfs only; run `pip install 'jaxmss[gcs]'`\n"
