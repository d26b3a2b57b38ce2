"""`towline up`, `down` and `status`: all of Towline on this machine."""

import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from towline.cli import options, output
from towline.cli.exit_codes import ExitCode
from towline.errors import FailedPrecondition
from towline.names import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from towline.embedded.layout import Layout
    from towline.embedded.program import Event
    from towline.embedded.summary import Summary

__all__ = ["down", "status", "up"]


def up(
    data_dir: options.DataDir = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go to the background once all is up.")
    ] = False,
    json: options.Json = False,
) -> int:
    """Start all of Towline on this machine.

    PostgreSQL, registry, queue and one agent, each its own process; Ctrl-C ends them in order.
    """
    _check_extras()
    from towline.embedded.layout import Layout

    layout = Layout.of(data_dir)
    report = _reporter(as_json=json)
    if detach:
        from towline.embedded import detached

        _welcome(layout, detached.start(layout, report), as_json=json, detached=True)
        return ExitCode.OK

    import asyncio

    from towline.embedded.supervisor import supervise

    was_up = False

    def ready(summary: "Summary") -> None:
        nonlocal was_up
        was_up = True
        with suppress(output.ReaderGone, OSError):
            _welcome(layout, summary, as_json=json, detached=False)

    asyncio.run(supervise(layout, report, ready))
    return ExitCode.OK if was_up else ExitCode.INTERRUPTED


def _check_extras() -> None:
    """Check what the supervisor itself must be able to import; it checks what the services need."""
    missing = [module for module in ("grpc_health", "aiodocker") if find_spec(module) is None]
    if missing:
        raise FailedPrecondition(
            f"`towline up` needs packages that are not installed ({', '.join(missing)}, …); "
            "pip install 'towline[embedded]'",
            reason="EXTRA_MISSING",
        )


def down(data_dir: options.DataDir = None, json: options.Json = False) -> None:
    """End what `towline up` has started.

    Works after a crash of it, too. Containers of runs go on, and it says until when `towline up` can take
    them up again; else they are stopped.
    """
    import asyncio

    from towline.embedded import leftovers
    from towline.embedded.layout import Layout

    layout = Layout.of(data_dir)
    ran = asyncio.run(leftovers.down(layout, _reporter(as_json=json)))
    if not ran and not json:
        output.text(f"nothing runs in {layout.root}")


def status(data_dir: options.DataDir = None, json: options.Json = False) -> int:
    """Show what of it runs.

    The exit code is 3 if not everything does.
    """
    from towline.embedded import services
    from towline.embedded.layout import Layout
    from towline.embedded.state import StateFile

    layout = Layout.of(data_dir)
    state = StateFile(layout.state).now
    alive = state.leftovers() | (
        {"supervisor": state.supervisor} if state.supervisor and state.supervisor.alive() else {}
    )
    found: dict[str, dict[str, Any]] = {
        name: {
            "pid": alive[name].pid if name in alive else None,
            "address": state.addresses.get(name) if name in alive else None,
            "drained": name in state.drained and name not in alive,
        }
        for name in ("supervisor", "postgres", *services.SERVICES)
    }
    complete = all(name in alive for name in found)
    if json:
        output.document({"data_dir": str(layout.root), "complete": complete, "processes": found})
    else:
        output.table(
            ("PROCESS", "PID", "ADDRESS"),
            (
                (name, str(facts["pid"] or "-"), _DRAINED if facts["drained"] else facts["address"] or "")
                for name, facts in found.items()
            ),
        )
    return ExitCode.OK if complete else ExitCode.UNAVAILABLE


def _reporter(*, as_json: bool) -> "Callable[[Event], None]":
    def report(event: "Event") -> None:
        # What runs must not end because nobody reads about it any more.
        with suppress(output.ReaderGone, OSError):
            if as_json:
                output.document({"event": asdict(event)})
            else:
                _show(event)

    return report


_DRAINED: Final = "drained; `towline down && towline up` starts it again"
_MARKS = {"up": ("✓", "32"), "ended": ("!", "33"), "left": ("-", "33"), "stopped": ("✓", "2")}


def _show(event: "Event") -> None:
    """Write one line per thing that has happened; what merely begins is shown on terminals only."""
    mark, colour = _MARKS.get(event.what, (" ", ""))
    words = f"{event.process:<10} {event.what:<8} {event.detail}".rstrip()
    if not sys.stdout.isatty():
        output.text(words)
    elif event.what in _MARKS:
        output.text(f"\r\x1b[K\x1b[{colour}m{mark}\x1b[0m {words}")
    else:
        output.write(f"\r\x1b[K  {words}".encode())


def _welcome(layout: "Layout", summary: "Summary", *, as_json: bool, detached: bool) -> None:
    if as_json:
        output.document({"summary": asdict(summary) | {"data_dir": str(summary.data_dir)}})
        return
    gpus = f"{len(summary.gpus)} GPUs ({', '.join(sorted(set(summary.gpus)))})" if summary.gpus else "no GPUs"
    engine = (
        f"Docker Engine {summary.engine}"
        if summary.engine
        else "no Docker Engine answers: runs wait until one does (start it, or set DOCKER_HOST)"
    )
    elsewhere = [] if layout.is_default else [("first", f"export TOWLINE_DATA_DIR={layout.root}")]
    end = f"towline down --data-dir {layout.root}" if elsewhere else "towline down"
    rows = [
        ("registry", summary.addresses["registry"]),
        ("queue", summary.addresses["queue"]),
        ("agent", f"{short(summary.agent)}: {summary.slots} at once, {gpus}"),
        *([("", f"not connected: {summary.agent_problem}")] if summary.agent_problem else []),
        ("engine", engine),
        ("data", f"{summary.data_dir} (logs in {layout.logs.name}/)"),
        *elsewhere,
        ("try", "towline launch --follow -- python train.py"),
        ("end", end if detached else "Ctrl-C"),
    ]
    output.text("\n".join(["", "towline is up", *(f"  {label:<9} {value}" for label, value in rows), ""]))
