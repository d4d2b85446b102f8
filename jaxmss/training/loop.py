"""A training run from its first line to its last: data, devices, state, steps, and what happens between them."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jax

from jaxmss.checkpoints import runs
from jaxmss.data import synth
from jaxmss.data.batches import batches
from jaxmss.data.mixing import Batch
from jaxmss.data.progress import progress_bar
from jaxmss.data.songs import fingerprint, root_of, training_songs, validation_tracks
from jaxmss.errors import AudioError, CheckpointError, InputError
from jaxmss.loading import keep_compiled_programs
from jaxmss.output import say
from jaxmss.training import distributed, sharding
from jaxmss.training.agreement import everywhere, same_config, same_songs
from jaxmss.training.checkpoints import RunCheckpoints
from jaxmss.training.config import SYNTH, Config, Data
from jaxmss.training.report import write_report
from jaxmss.training.run_directory import claimed
from jaxmss.training.starting import start_from
from jaxmss.training.state import TrainState, variables_of
from jaxmss.training.stopping import Sigterm, StoppedError
from jaxmss.training.validation import Validator
from jaxmss.training.watching import Watch
from jaxmss.typing import Variables

IN_FLIGHT = 2  # steps that may wait for the devices: more would only hold more batches in memory


def train(config: Config, run: Path) -> bool:
    """Train as `config` says, in the directory `run`; go on from its last checkpoint if it holds this run already.

    Every process of a cluster calls this with the same arguments. On SIGTERM the state is saved. Returns whether the
    run is complete. Raises `InputError` for a config, data or a directory that cannot be used, and where training
    fails.
    """
    distributed.initialize()
    keep_compiled_programs()
    same_config(config)
    with everywhere(InputError("Process 0 could not make the songs; it says why")):
        if jax.process_index() == 0:
            _make_songs(config.data)
    with everywhere(InputError("Another process cannot use its devices or data; it says why")):
        mesh = sharding.make_mesh(config)
        songs = training_songs(config.data, config.model)
        tracks = validation_tracks(config.data) if config.validation.every else []
    learned = fingerprint(songs)
    same_songs(learned, [track.name for track in tracks])

    with claimed(run, config), RunCheckpoints(run, config.checkpoints, learned) as checkpoints:
        state = sharding.init(config, mesh)
        restored = checkpoints.restore_latest(state, tell)
        state = start_from(config, state, tell) if restored is None else restored
        first, steps = int(state.step), config.steps(config.hours)
        complete = first >= steps and checkpoints.validated(first)
        validator = Validator(config, tracks) if tracks and not complete else None
        if validator is not None and validator.left_out:
            tell(f"not validated on, for a source is silent throughout: {', '.join(validator.left_out)}")
        if validator is not None and (before := checkpoints.validated_over()) not in (None, validator.over):
            tell(f"validated on others than before ({before}; now {validator.over}): not compared with what was")
        take_step = sharding.compile_step(config, mesh)
        model, process = config.model, (jax.process_index(), jax.process_count())
        stream = batches(
            songs, config.data, model.sample_rate, model.channels, config.seed, first, steps, process=process
        )
        sigterm = Sigterm()
        running: deque[tuple[int, jax.Array]] = deque()
        unread: list[AudioError] = []

        def validation_due(step: int) -> bool:
            return validator is not None and (step >= steps or step % config.validation.every == 0)

        with closing(stream), Watch(run, config, first) as watch:

            def validate(step: int, state: TrainState) -> bool:
                """Validate the state after a step, which is saved; return False where SIGTERM came in between."""
                with watch.paused():
                    result = validator(weights(state), lambda: sigterm.came) if validator is not None else None
                    if result is not None:
                        watch.validation(step, result)
                        # medians over fewer tracks are not compared
                        checkpoints.score(step, math.nan if result.failed else result.mean, result.over)
                return result is not None

            stop, step = False, first
            if restored is not None:
                _give_up(first, state.skipped, config, run)
                if validation_due(first) and not checkpoints.validated(first):
                    stop = not validate(first, state)  # the process before was stopped in it
            for batch in () if stop else _readable(stream, unread, sigterm):
                step += 1
                state, metrics = take_step(state, sharding.place_batch(batch, mesh))
                watch.step(step, metrics)
                running.append((step, metrics["skipped"]))
                if len(running) > IN_FLIGHT:
                    _give_up(*running.popleft(), config, run)

                stop = sigterm.stops()
                validating = validation_due(step) and not stop
                if validating or stop or step == steps or checkpoints.due(step):
                    watch.flush(saved=True)
                    checkpoints.save(step, state)  # before validation, in which the process may be killed
                if validating:
                    stop = not validate(step, state)
                checkpoints.check()
                if stop:
                    break
            while running:
                _give_up(*running.popleft(), config, run)
            if unread:
                watch.flush(saved=True)
                raise _kept(checkpoints, state, first, unread[0])
            if sigterm.came and not stop and step < steps:  # while the next batch was waited for
                stop = True
                if step > first:
                    watch.flush(saved=True)
                    checkpoints.save(step, state)
            if stop:
                checkpoints.wait()
                where = f"after step {step}, which is saved" if step else "before the first step"
                tell(f"stopped by SIGTERM {where}; start again to go on")
        if jax.process_index() == 0:
            say(write_report(run))
        return not stop


def weights(state: TrainState) -> Variables:
    """Return the variables that a run is judged by: averaged ones if it averages."""
    return variables_of(state.params, state.batch_stats) if state.ema is None else state.ema


def tell(line: str) -> None:
    """Say a line to who watches, once for all processes."""
    if jax.process_index() == 0:
        print(f"train.py: {line}", file=sys.stderr, flush=True)


def _make_songs(data: Data) -> None:
    """Make the synthetic data set that `data.root` asks for, unless it is there."""
    if not data.root.startswith(SYNTH):
        return
    with progress_bar("song", "Making songs") as report:
        synth.write(root_of(data), progress=report)


def _readable(stream: Iterator[Batch], unread: list[AudioError], sigterm: Sigterm) -> Iterator[Batch]:
    """Yield batches until one cannot be read, and note why, or until SIGTERM comes while one is waited for."""
    while True:
        try:
            with sigterm.breaking_in():
                batch = next(stream, None)
        except AudioError as error:
            unread.append(error)
            return
        except StoppedError:
            return
        if batch is None:
            return
        yield batch


def _kept(checkpoints: RunCheckpoints, state: TrainState, first: int, error: AudioError) -> AudioError:
    """Save the steps before the one whose batch could not be read; return what tells of both."""
    step = int(state.step)
    if step == first:
        return error
    if jax.process_count() > 1:  # the others are in the next step already, and wait for this process
        return AudioError(f"{error}; mend the data and start again, to go on from the last checkpoint")
    try:
        checkpoints.save(step, state)
        checkpoints.wait()
    except CheckpointError as failure:
        return AudioError(f"{error}; {failure}")
    return AudioError(f"{error}; step {step} before it is saved: mend the data and start again to go on")


def _give_up(step: int, in_a_row: jax.Array, config: Config, run: Path) -> None:
    """Raise `InputError` when so many updates in a row were skipped that the run will not come back by itself."""
    skipped = int(in_a_row)
    if skipped >= config.optim.give_up_after:
        again = f"start another run from a checkpoint, --init {run}@STEP," if runs.steps(run) else "begin anew"
        raise InputError(
            f"loss or gradients were not finite in {skipped} steps in a row, up to step {step}: nothing was learned "
            f"from them; {again} with a lower --optim.lr or with --optim.clip"
        )
