"""Start a recorded command with the parameters of this run in it.

    python -m towline.runtime.replay -- python train.py --lr ${config.lr=1e-3}

becomes `python train.py --lr 0.5` where the run's parameters say so; see `towline.runtime.arguments`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from towline.runtime import environment
from towline.runtime.arguments import filled
from towline.runtime.saying import say

__all__ = ["main"]


def main() -> None:
    """Become the program whose command line stands behind `--`."""
    words = sys.argv[1:]
    words = words[1:] if words[:1] == ["--"] else words
    config: dict[str, Any] = {}
    if file := os.environ.get(environment.CONFIG):
        config = json.loads(Path(file).read_bytes())
    command = filled(words, config)
    if not command:
        say("there is no command; write python -m towline.runtime.replay -- COMMAND …")
        sys.exit(2)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the whole purpose; no shell takes part
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        sys.exit(126 if isinstance(error, PermissionError) else 127)


if __name__ == "__main__":
    main()
