"""Install an environment of conda in a build's container: `python3 conda_install.py PLAN`.

The agent ships this file and conda's installer, rattler, into the container. Packages that were fetched stay
in the volume of the build's downloads. What activating the environment would set is written to
/towline/activation.json: a container has nobody who would activate it.
"""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PREFIX = "/opt/venv"
ACTIVATION = Path("/towline/activation.json")
# Of the shell itself.
_SHELLS_OWN = {"_", "PWD", "OLDPWD", "SHLVL"}
_ACTIVATE = f'for file in {PREFIX}/etc/conda/activate.d/*.sh; do [ ! -f "$file" ] || . "$file"; done; env -0'


async def install(plan: dict[str, Any]) -> None:
    """Solve, fetch and link what a plan lists; see core.conda."""
    import rattler  # noqa: PLC0415 - what follows tells people what to do where it cannot be imported

    client = rattler.Client.default_client()
    specs = [rattler.MatchSpec(spec, strict=False) for spec in plan["specs"]]
    gateway = rattler.Gateway(cache_dir=Path("/towline/tmp/repodata"), client=client)
    overrides = rattler.VirtualPackageOverrides.from_env()
    records = await rattler.solve(
        plan["channels"],
        specs,
        gateway=gateway,
        virtual_packages=rattler.VirtualPackage.detect(overrides),
    )
    _say(f"resolved {len(records)} packages of conda")
    await rattler.install(
        records,
        PREFIX,
        cache_dir=Path("/towline/cache/conda"),
        client=client,
        show_progress=False,
        execute_link_scripts=True,
    )
    for record in sorted(records, key=lambda each: each.name.normalized):
        _say(f" + {record.name.normalized}={record.version}={record.build}")


def activation(variables: dict[str, str]) -> dict[str, str]:
    """Return what activating the environment sets, with the variables of its file."""
    path = f"{PREFIX}/bin:{os.environ['PATH']}"
    before = {"PATH": path, "CONDA_PREFIX": PREFIX, "CONDA_DEFAULT_ENV": PREFIX, "HOME": "/home/towline"}
    said = subprocess.run(["bash", "-c", _ACTIVATE], env=before, stdout=subprocess.PIPE, check=True).stdout
    after = dict(pair.partition("=")[::2] for pair in said.decode().split("\0") if pair)
    kept = {name: value for name, value in after.items() if name not in _SHELLS_OWN and name != "HOME"}
    return kept | variables


def main() -> int:
    """Install what the plan says; return the exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 - the base image's, which may be anything
        _say(
            f"towline: the base image has Python {sys.version_info[0]}.{sys.version_info[1]}, and conda's "
            "installer needs 3.10 or later; name another one in the queue's template (image.base_image)"
        )
        return 1
    sys.path.insert(0, "/towline/conda")
    plan = json.loads(Path(sys.argv[1]).read_text())
    if plan["cuda"]:
        os.environ["CONDA_OVERRIDE_CUDA"] = plan["cuda"]
    try:
        asyncio.run(install(plan))
    except Exception as error:  # whatever it is: the log says it, and the agent reads it there
        _say(f"conda: {' '.join(str(error).split()) or type(error).__name__}")
        return 1
    ACTIVATION.write_text(json.dumps(activation(plan["variables"])))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the container's log is the build's


if __name__ == "__main__":
    # Without the interpreter's own end, at which the installer's threads may break it.
    os._exit(main())
