"""SIGTERM, by which schedulers ask a run to stop: when it came, and what it breaks into. And a Ctrl-C that was lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class StoppedError(BaseException):
    """SIGTERM, for who waits."""


class Sigterm:
    """Listens for SIGTERM from when it is made, and for Ctrl-C, which Python discards in a callback of JAX's.

    Attributes:
      came: whether it has come, in a run of a single process; several can agree on it only after a step.
    """

    def __init__(self) -> None:
        self.came = self._waiting = self._interrupted = False
        self._calls = 0
        self._several = jax.process_count() > 1  # in which JAX listens
        if not self._several:
            signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def stops(self) -> bool:
        """Tell whether to stop after this step. To be called after each, and then true in every process at once.

        Raises `KeyboardInterrupt` if one came before and was lost.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        self._calls += 1  # JAX agrees on one of the calls, counted from 1
        return multihost_utils.reached_preemption_sync_point(self._calls) if self._several else self.came

    @contextmanager
    def breaking_in(self) -> Iterator[None]:
        """Raise `StoppedError` where SIGTERM comes in the body, or came before it, in a run of a single process."""
        self._waiting = True
        try:
            if self.came:
                raise StoppedError
            yield
        finally:
            self._waiting = False

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self.came = True
        if self._waiting:
            self._waiting = False  # once is enough
            raise StoppedError
