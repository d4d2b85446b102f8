"""Checkpoints of a run, written by Orbax while training goes on; `jaxmss.checkpoints.runs` shows how they lie on disk.

A checkpoint appears under its name when all of it is written, and only then older ones are deleted: whenever the
process is killed, the last checkpoint is whole. The data needs none of its own: a batch is a function of the step.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxmss.checkpoints import runs
from jaxmss.errors import CheckpointError
from jaxmss.training.agreement import everywhere, seen_by_all
from jaxmss.training.config import Checkpoints
from jaxmss.training.state import TrainState, variables_of
from jaxmss.typing import PyTree

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what making room helps against
DAMAGED = "damaged-"  # before the step in the name of a checkpoint that is put aside


class RunCheckpoints:
    """The checkpoints of one run. Every process of a run calls the same methods in the same order.

    Raises `CheckpointError` if the processes do not see the same checkpoints.

    Attributes:
      directory: of the run.
      songs: fingerprint of those that are learned from; each checkpoint notes it.
    """

    def __init__(self, directory: Path, config: Checkpoints, songs: str):
        self.directory, self.songs = Path(directory).absolute(), songs
        unlike = f"Not all processes see the checkpoints in {directory} as process 0 does; start all again in a minute"
        self._unlike = CheckpointError(unlike)
        self._scores = seen_by_all(lambda: runs.scores(self.directory), self._unlike)
        self._saving, self._every = 0, config.every
        self._policy = _NewestAndBest(config.keep, self._scores)
        _quieten_orbax()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=True,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._note_manifest),
        )
        self._manager = _Manager(self.directory / runs.CHECKPOINTS, options=options)

    def due(self, step: int) -> bool:
        """Tell whether to save a step: halfway through an interval and at its end.

        While a checkpoint is written only the one before it is whole, half an interval older, and the next waits for
        it: so a kill at any moment loses an interval at most.
        """
        return step % self._every in (0, self._every // 2)

    def save(self, step: int, state: TrainState) -> None:
        """Save `state`, which may be donated on return; writing goes on meanwhile, but where every step is saved.

        A step that is saved already is left as it is. Raises `CheckpointError` if this or the last checkpoint cannot be
        written; those before it are whole.
        """
        if step in self._manager.all_steps():
            return
        items = {item: ocp.args.StandardSave(tree) for item, tree in _items(state).items()}
        self.wait()
        with self._told(step):
            self._saving = step
            self._scores[step] = runs.UNSCORED
            if not self._manager.save(step, args=ocp.args.Composite(**items)):
                raise RuntimeError(f"Orbax knows of a checkpoint after step {step}")
            if self._every == 1:  # which has no half
                self._manager.wait_until_finished()

    def score(self, step: int, sdr: float, over: str) -> None:
        """Note the validation SDR in dB of a step that was saved, and delete what is neither new nor the best now.

        `over` tells which tracks it is over. Raises `CheckpointError` if the checkpoint or the note cannot be written.
        """
        self.wait()
        self._scores[step] = runs.UNSCORED if math.isnan(sdr) else runs.Score(float(sdr), over)
        with self._told(step):
            if jax.process_index() == 0:
                runs.note_score(self.directory, step, self._scores[step])
            steps = sorted(self._manager.all_steps())
            kept = self._policy.kept(steps)
            for old in steps:  # every process deletes in this order
                if old not in kept:
                    self._manager.delete(old)

    def validated(self, step: int) -> bool:
        """Tell whether a step that was saved has been validated, with whatever success."""
        return seen_by_all(lambda: runs.validated(self.directory, step), self._unlike)

    def validated_over(self) -> str | None:
        """Tell which tracks the newest score is over; None if there is no score."""
        return runs.newest(self._scores).over

    def check(self) -> None:
        """Raise `CheckpointError` if the last checkpoint could not be written. It does not wait for it."""
        # not `check_for_errors`: it would take the error from the thread that else deletes older checkpoints
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is written; raise `CheckpointError` if it cannot be."""
        with self._told(self._saving):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and end Orbax's threads."""
        with self._told(self._saving):
            self._manager.close()

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # a process was lost, for which closing would wait
        with nullcontext() if error is None else suppress(CheckpointError):  # what came first is told
            self.close()

    def restore_latest(self, like: TrainState, tell: Callable[[str], None]) -> TrainState | None:
        """Return the last state that was saved, or None in a new run.

        Where the newest checkpoint is damaged, it is put aside, the one before is taken, and `tell` is given a line.
        Raises `CheckpointError` if all are damaged.

        Args:
          like: arrays or `jax.ShapeDtypeStruct`s that tell how the state's arrays are to lie on the devices. The
            processes and devices of the run that saved it may have been others.
          tell: takes a line of text.
        """
        found = runs.steps(self.directory)
        problems = []
        for step in reversed(found):
            try:
                state = self._restore(step, like)
            except CheckpointError as error:
                problems.append((step, error))
                continue
            for damaged, problem in problems:
                tell(f"{problem}; going on from step {step}")
                self._put_aside(damaged)
            if (earlier := runs.songs(self.directory, step)) not in (None, self.songs):
                tell(f"the songs are others than before ({earlier}; now {self.songs}): so are all batches from here on")
            return state
        if found:
            raise CheckpointError(f"{problems[0][1]}; no checkpoint before it is whole: start a new run")
        return None

    def _restore(self, step: int, like: TrainState) -> TrainState:
        checkpoint = self.directory / runs.CHECKPOINTS / str(step)
        target = {item: jax.tree.map(_abstract, tree) for item, tree in _items(like).items()}
        with _read_everywhere(checkpoint):
            if jax.process_index() == 0:  # reads every byte: once is enough
                for item in target:
                    runs.check(checkpoint, item)
        with _read_everywhere(checkpoint), ocp.StandardCheckpointer() as checkpointer:
            restored = {item: checkpointer.restore(checkpoint / item, tree) for item, tree in target.items()}
        weights = {"batch_stats": {}, **restored[runs.WEIGHTS]}
        return TrainState(**weights, **restored[runs.PROGRESS], ema=restored.get(runs.EMA))

    def _put_aside(self, step: int) -> None:
        checkpoint = self.directory / runs.CHECKPOINTS / str(step)
        with everywhere(CheckpointError(f"{checkpoint} could not be put aside by process 0; it says why")):
            if jax.process_index() == 0:
                try:
                    checkpoint.rename(_free(checkpoint.with_name(f"{DAMAGED}{step}")))
                except OSError as error:
                    raise CheckpointError(f"{checkpoint} cannot be put aside: {error.strerror}; remove it") from error
        seen_by_all(lambda: runs.steps(self.directory), self._unlike)
        self._manager.reload()

    def _note_manifest(self) -> None:
        """Write the manifest into the checkpoint that is about to be renamed. Orbax calls this in process 0."""
        [aside] = (self.directory / runs.CHECKPOINTS).glob(f"{self._saving}.*")
        (aside / runs.MANIFEST).write_text(json.dumps(runs.manifest(aside) | {"songs": self.songs}))

    @contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Turn what Orbax raises when it cannot write the checkpoint of a step into one line."""
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many kinds, none of them documented
            if isinstance(error, jax.errors.JaxRuntimeError):  # of a step that failed: Orbax only was the first to wait
                raise
            where, reason = self.directory / runs.CHECKPOINTS / str(step), _reason(error)
            advice = "make room and start again" if reason in map(os.strerror, FULL) else "start again"
            raise CheckpointError(
                f"The checkpoint {where} cannot be written: {reason}; those before it are whole: {advice} to go on "
                "from there"
            ) from error


class _Manager(ocp.CheckpointManager):
    """Orbax's, but for what it asks of preemptions: the run itself listens for them.

    Orbax would ask from another thread, and for an earlier step, which in several processes makes JAX forget the step
    after which all of them are to stop.
    """

    def reached_preemption(self, step: int) -> bool:
        """Tell Orbax that there is none."""
        del step
        return False


@dataclass
class _NewestAndBest(checkpoint_managers.PreservationPolicy):
    """Which checkpoints are kept: the newest ones, and the best by validation, over each set of tracks that was."""

    newest: int
    scores: Mapping[int, runs.Score]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tell for each checkpoint, the oldest first, whether it is kept."""
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def kept(self, steps: Sequence[int]) -> set[int]:
        """Return which of `steps`, in their order, are kept."""
        alike: dict[str | None, dict[int, runs.Score]] = {}
        for step in steps:
            alike.setdefault(self.scores[step].over, {})[step] = self.scores[step]
        return {*steps[-self.newest :], *map(runs.best, alike.values())}


def _items(state: TrainState) -> dict[str, PyTree]:
    """Return the parts of a state that a checkpoint holds: what `jaxmss.load` needs lies by itself."""
    progress = state._asdict()
    ema = progress.pop("ema")
    weights = variables_of(progress.pop("params"), progress.pop("batch_stats"))
    return {runs.WEIGHTS: weights, runs.PROGRESS: progress} | ({} if ema is None else {runs.EMA: ema})


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@contextmanager
def _read_everywhere(checkpoint: Path) -> Iterator[None]:
    """Raise `CheckpointError` in all processes if the body fails in one of them, so that they go on together."""
    with everywhere(CheckpointError(f"{checkpoint} could not be read by another process")):
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many kinds, none of them documented
            if isinstance(error, CheckpointError | jax.errors.JaxRuntimeError):
                raise
            raise CheckpointError(f"{checkpoint} is damaged or of another network: {_reason(error)}") from error


def _free(path: Path) -> Path:
    """Return the path, or if it is taken one with a number at its end."""
    numbered = (path.with_name(f"{path.name}-{i}") for i in itertools.count(2))
    return next(free for free in itertools.chain([path], numbered) if not free.exists())


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split())
    known = map(os.strerror, (*FULL, errno.EROFS, errno.EACCES, errno.EIO))
    return next((reason for reason in known if reason in told), told[:200])


@functools.cache  # once is enough
def _quieten_orbax() -> None:
    """Keep Orbax from printing what it raises as well: on a full disk, a traceback for each array, from its threads."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine 'async_serialize.* was never awaited", RuntimeWarning)
    printing = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":  # the one in which an array failed to be written
            printing(unraisable)

    sys.unraisablehook = hook
