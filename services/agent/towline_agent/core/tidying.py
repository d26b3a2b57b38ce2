"""A source tree after something was installed from it: as it was before."""

from typing import Final

from towline_agent.core.containers import WORKSPACE

__all__ = ["TIDY"]

# A program for the build container. Builds leave notes beside what they build (setuptools its .egg-info and a
# folder of half-done things); those that were recorded are put back, others go. What a build has put into
# packages, such as compiled modules, stays: an editable installation needs it.
TIDY: Final = f"""\
import json, os, pathlib, shutil, sys

root, kept = "{WORKSPACE}", pathlib.Path("/towline/kept")

def found():
    for folder, names, _ in os.walk(root):
        for name in [name for name in names if name == "build" or name.endswith(".egg-info")]:
            names.remove(name)
            if not os.path.islink(os.path.join(folder, name)):
                yield os.path.join(folder, name)

if sys.argv[1] == "before":
    paths = list(found())
    kept.mkdir()
    for number, path in enumerate(paths):
        if path.endswith(".egg-info"):
            shutil.copytree(path, kept / str(number), symlinks=True)
    (kept / "paths.json").write_text(json.dumps(paths))
else:
    paths = json.loads((kept / "paths.json").read_text())
    for path in found():
        if path.endswith(".egg-info"):
            shutil.rmtree(path)
        elif path not in paths:
            for made in ("bdist.*", "lib*", "temp.*"):
                for folder in pathlib.Path(path).glob(made):
                    shutil.rmtree(folder)
            if not os.listdir(path):
                os.rmdir(path)
    for number, path in enumerate(paths):
        if path.endswith(".egg-info"):
            shutil.copytree(kept / str(number), path, symlinks=True)
    for folder, names, files in os.walk(root):
        for path in (os.path.join(folder, name) for name in names + files):
            if os.lstat(path).st_uid == 0:
                os.lchown(path, 1000, 1000)
"""
