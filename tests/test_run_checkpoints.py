from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import pytest
import tiny_run

from jaxmss.checkpoints import runs
from jaxmss.errors import CheckpointError
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import Checkpoints, Config, Optim

CONFIG = tiny_run.config(model=tiny_run.SMALLEST)


def save(run: Path, sdr: dict[int, float | None], config: Config = CONFIG) -> None:
    with RunCheckpoints(run, config.checkpoints, "") as checkpoints:
        for step, value in sdr.items():
            tiny_run.save(checkpoints, step, tiny_run.state(config, step), value)


def restored(run: Path, config: Config = CONFIG) -> tuple[object, list[str]]:
    told: list[str] = []
    with RunCheckpoints(run, config.checkpoints, "") as checkpoints:
        return checkpoints.restore_latest(tiny_run.state(config, 0), told.append), told


def largest(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("ema", [0.999, 0.0])
def test_a_state_is_restored_bit_for_bit(tmp_path, ema):
    config = tiny_run.config(optim=Optim(ema=ema))  # with running statistics
    save(tmp_path, {10: None}, config)
    state, told = restored(tmp_path, config)
    assert tiny_run.same(state, tiny_run.state(config, 10))
    assert not told


def test_a_new_run_has_no_state(tmp_path):
    assert restored(tmp_path) == (None, [])


@pytest.mark.parametrize("every", [1, 2, 3, 5, 1000])
def test_a_kill_loses_an_interval_at_most(tmp_path, every):
    with RunCheckpoints(tmp_path, Checkpoints(every=every), "") as checkpoints:
        saved = [0, *filter(checkpoints.due, range(1, 3 * every + 1))]
        assert {every, 2 * every, 3 * every} <= set(saved)
        if every == 1:
            checkpoints.save(1, tiny_run.state(CONFIG, 1))
            assert runs.steps(tmp_path) == [1]
        else:  # until a step is to be saved, the one before it may be unwritten
            assert max(step - whole for whole, step in zip(saved, saved[2:], strict=False)) == every


def test_what_orbax_would_not_save_is_told(tmp_path):
    with RunCheckpoints(tmp_path, CONFIG.checkpoints, "") as checkpoints:
        checkpoints.save(10, tiny_run.state(CONFIG, 10))
        with pytest.raises(CheckpointError, match="checkpoints/7 cannot be written"):
            checkpoints.save(7, tiny_run.state(CONFIG, 7))


def test_a_state_that_is_donated_right_after_is_saved_as_it_was(tmp_path):
    onwards = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = jax.device_put(tiny_run.state(CONFIG, 10))
    onwards(tiny_run.state(CONFIG, 10))  # compiled
    with RunCheckpoints(tmp_path, CONFIG.checkpoints, "") as checkpoints:
        checkpoints.save(10, state)
        for _ in range(100):
            state = onwards(state)
    assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 10))


@pytest.mark.parametrize(
    ("sdr", "kept"),
    [
        ({1: None, 2: None, 3: None, 4: None}, [3, 4]),
        ({1: None, 2: 5.0, 3: 4.0, 4: None, 5: 1.0, 6: None}, [2, 5, 6]),
        ({1: 5.0, 2: 5.0, 3: 4.0, 4: 3.0, 5: 2.0}, [2, 4, 5]),
        ({1: -20.0, 2: float("nan"), 3: None, 4: None}, [1, 3, 4]),
    ],
)
def test_the_newest_are_kept_and_the_best_besides(tmp_path, sdr, kept):
    save(tmp_path, sdr)
    assert runs.steps(tmp_path) == kept


def test_the_best_outlives_a_restart(tmp_path):
    for step, value in enumerate([3.0, 9.0, 1.0, None, 8.0], 1):
        save(tmp_path, {step: value})
    assert runs.steps(tmp_path) == [2, 4, 5]


def test_the_best_is_so_over_the_tracks_of_the_newest_score_and_those_over_others_are_kept_too(tmp_path):
    scores = {1: (9.0, "A"), 2: (8.0, "A"), 3: (3.0, "B"), 4: (4.0, "B"), 5: (2.0, "B"), 6: (None, ""), 7: (None, "")}
    for step, (sdr, over) in scores.items():
        with RunCheckpoints(tmp_path, CONFIG.checkpoints, "") as checkpoints:
            tiny_run.save(checkpoints, step, tiny_run.state(CONFIG, step), sdr, over)
            assert checkpoints.validated_over() == ("A" if step < 3 else "B")
    assert runs.steps(tmp_path) == [1, 4, 6, 7]
    assert runs.choose(tmp_path, None) == 4


def test_a_step_that_is_saved_is_left_as_it_is(tmp_path):
    save(tmp_path, {1: 3.0})
    before = (tmp_path / "checkpoints/1/manifest.json").read_text()
    save(tmp_path, {1: None})
    assert (tmp_path / "checkpoints/1/manifest.json").read_text() == before


def cut(checkpoint: Path) -> None:
    os.truncate(largest(checkpoint / "progress"), 100)


def lose_a_file(checkpoint: Path) -> None:
    largest(checkpoint / "weights/ocdbt.process_0").unlink()


def change_a_byte(checkpoint: Path) -> None:
    file = largest(checkpoint / "ema/ocdbt.process_0")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_an_item(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "progress")


def lose_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def empty_it(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize("damage", [cut, lose_a_file, change_a_byte, lose_an_item, lose_the_manifest, empty_it])
def test_the_one_before_a_damaged_checkpoint_is_taken(tmp_path, capfd, damage: Callable[[Path], None]):
    save(tmp_path, {1: None, 2: None})
    damage(tmp_path / "checkpoints/2")

    state, told = restored(tmp_path)
    assert tiny_run.same(state, tiny_run.state(CONFIG, 1))
    [line] = told
    assert "checkpoints/2" in line
    assert "damaged" in line
    assert line.endswith("going on from step 1")
    assert "\n" not in line
    assert "Traceback" not in capfd.readouterr().err
    assert (tmp_path / "checkpoints/damaged-2").is_dir()

    save(tmp_path, {2: None})
    assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 2))


def test_a_step_may_be_damaged_again_and_again(tmp_path):
    save(tmp_path, {1: None})
    for _ in range(3):
        save(tmp_path, {2: None})
        cut(tmp_path / "checkpoints/2")
        assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 1))
    aside = [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith("damaged")]
    assert sorted(aside) == ["damaged-2", "damaged-2-2", "damaged-2-3"]


def test_other_songs_than_those_of_the_checkpoint_are_told(tmp_path):
    with RunCheckpoints(tmp_path, CONFIG.checkpoints, "8 songs") as checkpoints:
        checkpoints.save(1, tiny_run.state(CONFIG, 1))
    told: list[str] = []
    for songs in ("7 songs", "8 songs"):
        with RunCheckpoints(tmp_path, CONFIG.checkpoints, songs) as checkpoints:
            checkpoints.restore_latest(jax.device_put(tiny_run.state(CONFIG, 0)), told.append)
    assert told == ["the songs are others than before (8 songs; now 7 songs): so are all batches from here on"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again_from_nothing(tmp_path):
    save(tmp_path, {1: None, 2: None})
    for step in (1, 2):
        cut(tmp_path / f"checkpoints/{step}")
    with pytest.raises(
        CheckpointError, match=r"checkpoints/2/progress.* is damaged.*; no checkpoint before it is whole"
    ):
        restored(tmp_path)
    assert runs.steps(tmp_path) == [1, 2]


def test_a_state_of_another_network_is_refused(tmp_path):
    save(tmp_path, {1: None})
    other = tiny_run.config(model=replace(CONFIG.model, width=8))
    with pytest.raises(CheckpointError, match="checkpoints/1 is damaged or of another network"):
        restored(tmp_path, other)


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def wait(checkpoints: RunCheckpoints) -> None:
    checkpoints.wait()


def look_often(checkpoints: RunCheckpoints) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        checkpoints.check()


def save_until_it_fails(
    checkpoints: RunCheckpoints, steps: range, after: Callable[[RunCheckpoints], None] = wait
) -> None:
    with checkpoints:
        for step in steps:
            checkpoints.save(step, tiny_run.state(CONFIG, step))
            after(checkpoints)


@pytest.mark.parametrize("after", [wait, look_often])
def test_what_cannot_be_written_is_told_in_a_line_and_costs_no_older_checkpoint(tmp_path, capfd, after):
    save(tmp_path, {1: 2.0, 2: None})
    checkpoints = RunCheckpoints(tmp_path, Checkpoints(keep=1), "")
    with limited(1000), pytest.raises(CheckpointError, match="checkpoints/3 cannot be written: File too large; those"):
        save_until_it_fails(checkpoints, range(3, 5), after)
    assert "Traceback" not in capfd.readouterr().err
    assert runs.steps(tmp_path) == [1, 2]
    assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 2))
    save(tmp_path, {3: None})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_a_score_that_cannot_be_noted_is_told_of_its_step(tmp_path):
    save(tmp_path, {1: 2.0, 2: None})
    told = "checkpoints/2 cannot be written: File too large; those"
    with RunCheckpoints(tmp_path, Checkpoints(), "") as checkpoints, limited(10):
        with pytest.raises(CheckpointError, match=told):
            checkpoints.score(2, 5.0, "3 tracks")
        assert not checkpoints.validated(2)
    assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 2))


def test_a_full_disk_is_told(tmp_path):
    """Needs a file system of its own: run by root, as in a container."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        checkpoints = RunCheckpoints(tmp_path, Checkpoints(keep=100), "")
        with pytest.raises(
            CheckpointError, match=r"/\d+ cannot be written: No space left on device; those before"
        ) as told:
            save_until_it_fails(checkpoints, range(1, 100))
        saved = runs.steps(tmp_path)
        assert saved == list(range(1, len(saved) + 1))
        assert f"checkpoints/{len(saved) + 1} " in str(told.value)
        assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, saved[-1]))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def lose_everything(checkpoint: Path) -> None:
    for path in checkpoint.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut_the_manifest(checkpoint: Path) -> None:
    os.truncate(checkpoint / "manifest.json", 5)


def cut_what_orbax_notes(checkpoint: Path) -> None:
    os.truncate(checkpoint / "_CHECKPOINT_METADATA", 5)


@pytest.mark.parametrize("damage", [lose_an_item, lose_everything, cut_the_manifest, cut_what_orbax_notes])
def test_an_older_checkpoint_that_is_damaged_or_half_deleted_is_in_nobodys_way(tmp_path, damage):
    save(tmp_path, {1: 2.0, 2: 3.0})
    damage(tmp_path / "checkpoints/1")
    assert tiny_run.same(restored(tmp_path)[0], tiny_run.state(CONFIG, 2))
    save(tmp_path, {3: None, 4: None})
    assert runs.steps(tmp_path) == [2, 3, 4]
