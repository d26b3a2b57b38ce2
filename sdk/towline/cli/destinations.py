"""Where files of artifacts are written: the folder of `--to`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from towline.errors import InvalidArgument

__all__ = ["writing"]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Write below the folder of `--to`; InvalidArgument says what there cannot be written, and why."""
    try:
        yield
    except OSError as error:
        where = "" if error.filename in (None, str(folder)) else f"{error.filename}: "
        raise InvalidArgument.field(
            f"--to {folder}", f"cannot be written ({where}{error.strerror or error})"
        ) from None
