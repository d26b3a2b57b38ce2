"""How a program learns that it shall stop: `towline.catch_stop`.

    stop = towline.catch_stop()
    while not stop.requested and step < steps:
        step += 1
        ...
    save(step, why=stop.reason, within=stop.seconds_left)

Before it signals, the agent writes a small file that says why. The file counts as a request too: a signal
reaches the first process of a container alone, the file reaches the children of a shell script as well.
"""

import atexit
import json
import math
import os
import signal
import time
from pathlib import Path
from threading import get_ident
from types import FrameType
from typing import Any

from towline.errors import FailedPrecondition
from towline.runtime import environment

__all__ = ["Stop", "catch_stop"]


class Stop:
    """Whether this program shall stop, why, and how much time it has. Made by `towline.catch_stop`.

    Args:
        file: What the agent writes before it signals; None: there is no agent.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._noticed_at: float | None = None
        self._written: dict[str, Any] = {}
        self._before: dict[int, Any] = {}
        self._masks: dict[int, set[signal.Signals | int]] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop: save what is worth it and end, with any exit code. It stays true."""
        if self._noticed_at is None and self._file is not None and self._file.exists() and self._read():
            self._notice()
        return self._noticed_at is not None

    @property
    def reason(self) -> str:
        """Why, or "": not requested, or nobody said (on your own machine, for example).

        CANCELLED: somebody asked. PREEMPTED: the run is queued again. TIMEOUT: it took longer than allowed.
        LEASE_EXPIRED: the node lost touch with the queue, and the run goes to another one.
        """
        return str(self._read().get("reason") or "") if self.requested else ""

    @property
    def seconds_left(self) -> float:
        """Seconds until this program is killed, 0 or more; `math.inf` if not requested or not known.

        Counted from when this object noticed the request: from the signal, or from the first look after it.
        """
        if not self.requested or self._noticed_at is None:
            return math.inf
        try:
            grace = float(self._read()["grace_seconds"])
        except (KeyError, TypeError, ValueError):
            return math.inf
        return max(grace - (time.monotonic() - self._noticed_at), 0.0)

    def __repr__(self) -> str:
        return f"Stop(requested={self.requested}, reason={self.reason!r}, seconds_left={self.seconds_left})"

    def _notice(self) -> None:
        if self._noticed_at is None:
            self._noticed_at = time.monotonic()

    def _read(self) -> dict[str, Any]:
        """Give what the agent wrote, as it last could be read: a cancel may replace another reason."""
        if self._file is not None:
            try:
                written = json.loads(self._file.read_bytes())
            except (OSError, ValueError):  # not there, or not all of it yet
                return self._written
            if isinstance(written, dict):
                self._written = written
        return self._written

    def _catch(self, signals: tuple[signal.Signals, ...]) -> None:
        for number in signals:
            self._before[number] = signal.signal(number, self._on_signal)
        atexit.register(self._at_exit)
        os.register_at_fork(
            before=self._hold_back, after_in_parent=self._let_through, after_in_child=self._give_back
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self._noticed_at is not None
        self._notice()
        before = self._before.get(number)
        if before is signal.default_int_handler:
            # It raises KeyboardInterrupt: for a person who presses Ctrl-C a second time, never for an agent.
            if again and self._file is None:
                signal.default_int_handler(number, frame)
        elif callable(before):
            before(number, frame)

    def _at_exit(self) -> None:
        """Let a program that ends because it saw the file keep its exit code.

        The signal comes after the file, perhaps as the interpreter has given its handlers back already.
        """
        if self.requested:
            for number in self._before:
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, signal.SIG_IGN)

    # A worker that is forked gets the handlers from before, or multiprocessing's `terminate()` would not end
    # it. Meanwhile signals wait: the interpreter drops one that comes to a child in its first moment.

    def _hold_back(self) -> None:
        self._masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def _let_through(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(get_ident()))

    def _give_back(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, signal.SIG_DFL if before is None else before)
        self._let_through()


_stop: Stop | None = None


def catch_stop() -> Stop:
    """Take the request to stop from now on, in place of being ended by it.

    In a container that an agent started it comes as the queue's stop signal; elsewhere as SIGTERM or
    Ctrl-C, of which a second one ends the program as always. A handler that was there is called too.
    A second call gives the same object. Child processes that are forked have the handlers from before.

    Raises:
        FailedPrecondition: Not called in the main thread (reason NOT_MAIN_THREAD), or TOWLINE_STOP_SIGNAL
            names no signal that can be caught (reason STOP_SIGNAL_UNKNOWN).
    """
    global _stop  # noqa: PLW0603 - a process has one
    if _stop is None:
        file = os.environ.get(environment.STOP_FILE)
        stop = Stop(Path(file) if file else None)
        signals = _signals()
        try:
            stop._catch(signals)
        except ValueError:
            raise FailedPrecondition(
                "towline.catch_stop was called in another thread than the main one, where Python takes no "
                "signals; call it at the start of the program and hand its result to the thread",
                reason="NOT_MAIN_THREAD",
            ) from None
        except OSError:
            raise _unknown(os.environ[environment.STOP_SIGNAL]) from None
        _stop = stop
    return _stop


def _signals() -> tuple[signal.Signals, ...]:
    named = os.environ.get(environment.STOP_SIGNAL)
    if not named:
        return (signal.SIGTERM, signal.SIGINT)
    try:
        return (signal.Signals[named],)
    except KeyError:
        raise _unknown(named) from None


def _unknown(named: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{environment.STOP_SIGNAL} is {named!r}, which names no signal that a program can catch; "
        "set it to one such as SIGTERM, or unset it",
        reason="STOP_SIGNAL_UNKNOWN",
    )
