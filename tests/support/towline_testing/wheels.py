"""Wheels and the index that has them, as files."""

import zipfile
from pathlib import Path


def simple_index(folder: Path, *packages: tuple[str, str, str]) -> None:
    """Write an index (PEP 503) of pure packages: name, version and the content of their one module."""
    for name, version, text in packages:
        module = name.replace("-", "_")
        place = folder / name
        place.mkdir(parents=True)
        wheel = place / f"{module}-{version}-py3-none-any.whl"
        told = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{module}.py", text)
            archive.writestr(f"{told}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(
                f"{told}/WHEEL",
                "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr(
                f"{told}/RECORD", f"{module}.py,,\n{told}/METADATA,,\n{told}/WHEEL,,\n{told}/RECORD,,\n"
            )
        link = wheel.name.replace("+", "%2B")
        (place / "index.html").write_text(f'<!DOCTYPE html><a href="{link}">{wheel.name}</a>\n')
