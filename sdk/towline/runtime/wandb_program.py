"""How a program written for W&B runs in a container of Towline, unchanged.

    python -m towline.runtime.wandb_program -- python train.py

The run's parameters become those that W&B Launch would hand to `wandb.init`: they go over the program's own
config. Without an API key W&B keeps what it logs in the run's outputs, from where `wandb sync` sends it; with
one (WANDB_API_KEY, from the queue's template) it sends it itself. Standard library only.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["COMMAND", "environment_of", "main"]

COMMAND: Final = ("python", "-m", "towline.runtime.wandb_program", "--")
"""What stands before a program's own command."""

# The kernel takes no variable of more than 128 KiB; W&B reads pieces numbered from 0.
_MOST_CHARACTERS: Final = 100_000


def environment_of(environment: Mapping[str, str], parameters: str) -> dict[str, str]:
    """Give the variables to set for W&B.

    Args:
        environment: What is set; it goes before what is chosen here.
        parameters: The run's parameters: the text of a JSON object, of ASCII only.
    """
    chosen = {"WANDB_LAUNCH": "true"}
    if len(parameters) <= _MOST_CHARACTERS:
        chosen["WANDB_CONFIG"] = parameters
    else:
        starts = range(0, len(parameters), _MOST_CHARACTERS)
        for number, start in enumerate(starts):
            chosen[f"WANDB_CONFIG_{number}"] = parameters[start : start + _MOST_CHARACTERS]
    if not environment.get("WANDB_API_KEY"):
        chosen["WANDB_MODE"] = "offline"
    if outputs := environment.get("TOWLINE_OUTPUTS"):
        chosen["WANDB_DIR"] = outputs
    return {name: value for name, value in chosen.items() if name not in environment}


def main() -> None:
    """Become the program named on the command line, after "--"; exits with 1 where it cannot be started."""
    command = sys.argv[2:]
    file = os.environ.get("TOWLINE_CONFIG")
    parameters = json.loads(Path(file).read_bytes()) if file else {}
    os.environ.update(environment_of(os.environ, json.dumps(parameters)))
    try:
        os.execvp(command[0], command)  # noqa: S606 - the program takes this process's place, signals and all
    except (OSError, IndexError) as error:
        sys.exit(f"towline: cannot start {' '.join(command)!r}: {error}")


if __name__ == "__main__":
    main()
