"""What is built: an environment and a source, and what changes in them."""

import io
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

__all__ = ["BASE", "FEW_REQUIREMENTS", "PYTHON", "Subject"]

PYTHON: Final = "3.11"
BASE: Final = f"towline/python:{PYTHON}"

# What a small training script has, as `uv pip freeze` lists it.
REQUIREMENTS: Final = (
    "certifi==2024.8.30",
    "charset-normalizer==3.4.0",
    "idna==3.10",
    "joblib==1.4.2",
    "numpy==2.1.3",
    "pandas==2.2.3",
    "python-dateutil==2.9.0.post0",
    "pytz==2024.2",
    "requests==2.32.3",
    "scikit-learn==1.5.2",
    "scipy==1.14.1",
    "six==1.16.0",
    "threadpoolctl==3.5.0",
    "tzdata==2024.2",
    "urllib3==2.2.3",
)
FEW_REQUIREMENTS: Final = ("idna==3.10", "six==1.16.0")
CHANGED: Final = {"requests==2.32.3": "requests==2.32.2"}
SOURCE_FILES: Final = 50


@dataclass(frozen=True)
class Subject:
    """A job's environment and source.

    Attributes:
        requirements: Exact pins.
        program: Text of its main.py, beside other files that never change.
    """

    requirements: tuple[str, ...] = REQUIREMENTS
    program: str = field(default_factory=lambda: f"print('{uuid4()}')\n")

    @classmethod
    def new(cls, requirements: tuple[str, ...] = REQUIREMENTS) -> Self:
        """Make one that nobody has built before: a marker that always holds makes its environment another."""
        first, *others = requirements
        return cls((f'{first}; platform_version != "{uuid4().hex}"', *others))

    def with_other_code(self) -> Self:
        """Change one file of the source."""
        return replace(self, program=f"print('{uuid4()}')\n")

    def with_other_dependency(self) -> Self:
        """Change the version of one dependency."""
        return replace(self, requirements=tuple(CHANGED.get(one, one) for one in self.requirements))

    def write_source(self, folder: Path) -> None:
        """Write the source tree."""
        for name, text in self._files().items():
            (folder / name).write_text(text)

    def archive(self) -> bytes:
        """Give the source tree as a tar archive, as a job has it."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, text in self._files().items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return buffer.getvalue()

    def _files(self) -> dict[str, str]:
        others = {f"module_{number}.py": f"VALUE = {number}\n" * 100 for number in range(SOURCE_FILES)}
        return others | {"main.py": self.program}
