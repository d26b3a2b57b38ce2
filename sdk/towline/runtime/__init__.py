"""What a training script imports: `towline.init` and `towline.catch_stop`. Standard library only.

    run = towline.init(job="digits-train", config={"lr": 0.1, "epochs": 10})
    stop = towline.catch_stop()
    train(run.config.lr, until=lambda: stop.requested)
    (run.outputs / "metrics.json").write_text(...)

On a person's machine this records the run, and Towline's job is made of it when the program ends. In a
container that an agent started it gives the run's own parameters and outputs folder, and records nothing.

Into containers go the files named by `SHIPPED`, below the folder `towline` stands in; with that folder on
PYTHONPATH, `import towline` finds these two and nothing else of Towline.
"""

from typing import Final

from towline.runtime.run import Run, init
from towline.runtime.stopping import Stop, catch_stop

__all__ = ["SHIPPED", "Run", "Stop", "catch_stop", "init"]

SHIPPED: Final = (
    "towline/__init__.py",
    "towline/errors.py",
    "towline/runtime/__init__.py",
    "towline/runtime/arguments.py",
    "towline/runtime/artifacts.py",
    "towline/runtime/config.py",
    "towline/runtime/endpoints.py",
    "towline/runtime/environment.py",
    "towline/runtime/given.py",
    "towline/runtime/recording.py",
    "towline/runtime/replay.py",
    "towline/runtime/run.py",
    "towline/runtime/saying.py",
    "towline/runtime/schemas.py",
    "towline/runtime/spool.py",
    "towline/runtime/stopping.py",
    "towline/runtime/summary.py",
    "towline/runtime/wandb_program.py",
)
"""Files a container needs for these, relative to the folder that `towline` stands in."""
