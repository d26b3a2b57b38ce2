"""Generate the Python stubs in sdk/towline/v1 from protos/, or check that they are up to date.

Usage: generate_protos.py [--check]
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUBS = ROOT / "sdk" / "towline" / "v1"


def generate(target: Path) -> None:
    """Write the stubs of every .proto file below `target`."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    # protoc finds its plugins on the PATH or by name=path; the environment may not be activated.
    plugins = [
        f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"
        for name in ("mypy", "mypy_grpc")
    ]
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{files('grpc_tools') / '_proto'}",
            *plugins,
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sources,
        ]
    )
    if status:
        sys.exit(f"protoc failed with status {status}")
    package = target / "towline" / "v1"
    (package / "__init__.py").write_text(
        '"""Generated from protos/towline/v1 by `make protos`; never edited by hand."""\n'
    )
    # grpc's stub for a file without a service is an empty shell.
    for stub in package.glob("*_pb2_grpc.py"):
        if "class " not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)


def main() -> None:
    """Generate into the source tree, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the stubs differ from the protos")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "towline" / "v1"
        if not check:
            shutil.rmtree(STUBS, ignore_errors=True)
            shutil.copytree(fresh, STUBS)
            return
        names = {path.name for path in [*fresh.iterdir(), *STUBS.glob("*.py*")]}
        stale = [n for n in sorted(names) if not _same(fresh / n, STUBS / n)]
        if stale:
            sys.exit(f"stubs differ from protos/, run `make protos`: {', '.join(stale)}")


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    main()
