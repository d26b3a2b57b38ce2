"""What is installed in an image, as a file in it: packages of Python, conda and Debian, in CycloneDX's form.

It has no time and no serial number, so that the same environment has the same file.
"""

from typing import Final

__all__ = ["CONTENTS", "LIST_CONTENTS"]

CONTENTS: Final = "/usr/share/towline/contents.cdx.json"
"""Where it is."""

# A program for the build container; its argument is CONTENTS.
LIST_CONTENTS: Final = r"""
import json, pathlib, re, sys
from importlib.metadata import distributions
from urllib.parse import quote

def listed(kind, name, version, **qualifiers):
    given = [f"{key}={quote(value, safe='.-_~')}" for key, value in sorted(qualifiers.items()) if value]
    path = "/".join(quote(part, safe=".-_~") for part in name.split("/"))
    purl = f"pkg:{kind}/{path}@{quote(version, safe='.-_~')}" + ("?" + "&".join(given) if given else "")
    name = name.rpartition("/")[2]
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}

def of_python():
    for found in distributions():
        # A folder that an installer left half may have no version.
        if (name := found.metadata["Name"]) and (version := found.version):
            yield listed("pypi", re.sub("[-_.]+", "-", name).lower(), version)

def of_conda():
    for file in pathlib.Path(sys.prefix, "conda-meta").glob("*.json"):
        found = json.loads(file.read_text())
        build, subdir = found.get("build", ""), found.get("subdir", "")
        yield listed("conda", found["name"], found["version"], build=build, subdir=subdir)

def of_debian():
    release = pathlib.Path("/etc/os-release")
    lines = release.read_text().splitlines() if release.exists() else []
    system = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    vendor, number = system.get("ID", "debian"), system.get("VERSION_ID", "")
    folder = pathlib.Path("/var/lib/dpkg")
    for file in [folder / "status", *folder.glob("status.d/*")]:
        if not file.is_file() or file.suffix == ".md5sums":
            continue
        for stanza in file.read_text(errors="replace").split("\n\n"):
            has = dict(re.findall("^(Package|Version|Architecture|Status): (.*)$", stanza, re.M))
            is_there = has.get("Status", " installed").endswith(" installed")
            if is_there and has.keys() >= {"Package", "Version"}:
                name, arch = f"{vendor}/{has['Package']}", has.get("Architecture", "")
                distro = f"{vendor}-{number}" if number else ""
                yield listed("deb", name, has["Version"], arch=arch, distro=distro)

components = {one["purl"]: one for found in (of_python(), of_conda(), of_debian()) for one in found}
bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
bom["components"] = [one for _, one in sorted(components.items())]
file = pathlib.Path(sys.argv[1])
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(bom, separators=(",", ":")))
"""
