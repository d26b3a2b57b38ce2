"""Train in steps that survive a stop: a checkpoint every so often, and one more when asked to stop.

Try `CHECKPOINTS=/tmp/fit python examples/checkpoints/train.py`: press Ctrl-C, run it again, and it goes on
where it was. On a queue whose template mounts a folder that all nodes see, and sets CHECKPOINTS to a
place in it for each run, a run that is preempted or loses its node does the same (docs/checkpoints.md).
"""

import json
import math
import os
import time
from pathlib import Path

import towline

run = towline.init(
    job="fit-line",
    config={"steps": 2000, "save_every": 200, "learning_rate": 0.01, "step_seconds": 0.005},
)
stop = towline.catch_stop()
config = run.config

folder = Path(os.environ.get("CHECKPOINTS") or run.outputs)
folder.mkdir(parents=True, exist_ok=True)


def load() -> dict[str, float]:
    """Give the newest checkpoint. Each attempt writes a file of its own, so a stale one spoils nothing."""
    saved = sorted(folder.glob("checkpoint-*.json"))
    return json.loads(saved[-1].read_text()) if saved else {"step": 0, "slope": 0.0, "offset": 0.0}


def save(state: dict[str, float]) -> None:
    """Write a checkpoint whole or not at all: the program may be killed at any moment."""
    part = folder / f"checkpoint-{run.epoch:08}.part"
    part.write_text(json.dumps(state))
    part.replace(part.with_suffix(".json"))


state = load()
print(f"attempt {run.attempt} begins at step {state['step']}", flush=True)
while state["step"] < config.steps and not stop.requested:
    x = math.sin(state["step"])
    error = state["slope"] * x + state["offset"] - (3 * x + 1)  # the line to be found: 3x + 1
    state["slope"] -= config.learning_rate * error * x
    state["offset"] -= config.learning_rate * error
    state["step"] += 1
    time.sleep(config.step_seconds)  # as if it were work
    if state["step"] % config.save_every == 0:
        save(state)
save(state)
if stop.requested:
    print(f"stopped at step {state['step']}: {stop.reason or 'as asked'}")
else:
    (run.outputs / "line.json").write_text(json.dumps(state))
    print(f"found {state['slope']:.2f} x + {state['offset']:.2f}")
