"""The files of Towline that containers get."""

import shutil
from pathlib import Path

import towline
from towline.runtime import SHIPPED


def shipped(folder: Path) -> Path:
    """Copy them below a folder, which goes on PYTHONPATH then; gives the folder."""
    sdk = Path(towline.__file__).parents[1]
    for file in SHIPPED:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sdk / file, folder / file)
    return folder
