"""Standard output: JSON documents, tables and bytes, for terminals and for pipes."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console, RenderableType

__all__ = [
    "ReaderGone",
    "as_dict",
    "document",
    "errors_console",
    "give_up",
    "message",
    "messages",
    "plain",
    "rendered",
    "table",
    "text",
    "working",
    "write",
]


class ReaderGone(Exception):
    """Whoever read standard output has closed it."""


def write(data: bytes) -> None:
    """Write bytes to standard output as they are, at once.

    Raises:
        ReaderGone: It is closed.
        OSError: It cannot be written, as on a full disk.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        give_up()
        raise ReaderGone from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def give_up() -> None:
    """Drop what could not be written: the interpreter flushes once more at its end, which must not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def text(line: str) -> None:
    """Write a line of text."""
    write(f"{line}\n".encode())


def document(value: Any) -> None:
    """Write one JSON document on one line."""
    text(json.dumps(value, ensure_ascii=False))


def as_dict(source: "Message") -> dict[str, Any]:
    """Give a message as proto JSON with the field names of the protos; every field is there."""
    from google.protobuf import json_format

    return json_format.MessageToDict(
        source, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def message(source: "Message") -> None:
    """Write a message as one JSON document."""
    document(as_dict(source))


def messages(sources: Iterable["Message"]) -> None:
    """Write messages as one JSON document, a list."""
    document([as_dict(source) for source in sources])


def _console() -> "Console":
    """Give a console that renders for standard output: styled on a terminal, else plain and unwrapped."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, soft_wrap=False)


def rendered(*parts: "RenderableType") -> None:
    """Render parts, one below the other, to standard output."""
    target = _console()
    with target.capture() as capture:
        for part in parts:
            target.print(part)
    lines = (line.rstrip() for line in capture.get().splitlines())
    write("".join(f"{line}\n" for line in lines).encode())


def table(headers: Sequence[str], rows: Iterable[Sequence["RenderableType"]]) -> None:
    """Write rows below headers, in columns."""
    from rich.table import Table

    grid = Table(*headers, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for row in rows:
        grid.add_row(*row)
    rendered(grid)


def plain(value: str) -> "RenderableType":
    """Give text that is shown as it is, brackets and all."""
    from rich.text import Text

    return Text(value)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    if not sys.stderr.isatty():
        yield
        return
    with errors_console().status(what):
        yield


def errors_console() -> "Console":
    """Give a console on standard error, for progress."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
