"""Generate the Python stubs in sdk/towline/v1 from protos/, and that of BuildKit's messages, or check them.

Usage: generate_protos.py [--check]
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUBS = ROOT / "sdk" / "towline" / "v1"
# Messages of another project, beside what reads them.
AGENT = ROOT / "services" / "agent"
BUILDKIT = Path("towline_agent", "engine", "buildkit.proto")


def generate(target: Path) -> None:
    """Write the stubs of every .proto file below `target`."""
    run_protoc(PROTOS, [path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto")], target)
    package = target / "towline" / "v1"
    (package / "__init__.py").write_text(
        '"""Generated from protos/towline/v1 by `make protos`; never edited by hand."""\n'
    )
    # grpc's stub for a file without a service is an empty shell.
    for stub in package.glob("*_pb2_grpc.py"):
        if "class " not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)
    run_protoc(AGENT, [BUILDKIT], target)


def run_protoc(root: Path, sources: Sequence[Path], target: Path) -> None:
    """Write the stubs of some .proto files, given relative to `root`, below `target`."""
    # protoc finds its plugins on the PATH or by name=path; the environment may not be activated.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    status = protoc.main(
        [
            "protoc",
            f"-I{root}",
            f"-I{files('grpc_tools') / '_proto'}",
            *plugins,
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sorted(map(str, sources)),
        ]
    )
    if status:
        sys.exit(f"protoc failed with status {status}")


def main() -> None:
    """Generate into the source tree, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the stubs differ from the protos")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "towline" / "v1"
        messages = [BUILDKIT.with_name(f"buildkit_pb2{suffix}") for suffix in (".py", ".pyi")]
        if not check:
            shutil.rmtree(STUBS, ignore_errors=True)
            shutil.copytree(fresh, STUBS)
            for file in messages:
                shutil.copy2(Path(folder, file), AGENT / file)
            return
        names = {path.name for path in [*fresh.iterdir(), *STUBS.glob("*.py*")]}
        stale = [n for n in sorted(names) if not _same(fresh / n, STUBS / n)]
        stale += [file.name for file in messages if not _same(Path(folder, file), AGENT / file)]
        if stale:
            sys.exit(f"stubs differ from the protos, run `make protos`: {', '.join(stale)}")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    main()
