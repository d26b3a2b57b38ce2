"""How packages of the base image's distribution are installed: what the throw-away container is given.

Lists and packages that were fetched stay on the node, in the volume of the build's downloads; addresses and
logins of mirrors lie below /towline, which is never part of an image. See core.recipe.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

__all__ = ["Mirrors", "install_files"]

_SCRIPT: Final = """\
#!/bin/sh
set -eu
if ! command -v apt-get >/dev/null; then
    echo "towline: the base image has no apt-get, which system packages need; take one of Debian's kind" >&2
    exit 1
fi
. /etc/os-release
kept=/towline/cache/apt/$ID-${VERSION_ID:-testing}-$(dpkg --print-architecture)
mkdir -p "$kept/lists/partial" "$kept/archives/partial" /towline/apt/parts
cat >/towline/apt/conf <<END
Dir::State::lists "$kept/lists";
Dir::Cache::archives "$kept/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::netrc "/towline/apt/auth.conf";
Dir::Log "/towline/apt/log";
Acquire::Languages "none";
Acquire::Retries "2";
APT::Keep-Downloaded-Packages "true";
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Dpkg::Options:: "--force-confold";
Dpkg::Use-Pty "0";
END
export APT_CONFIG=/towline/apt/conf DEBIAN_FRONTEND=noninteractive HOME=/towline/home TMPDIR=/towline/tmp
mkdir -p /towline/apt/log
settings=""
if [ -f /towline/ca.pem ]; then settings="$settings -o Acquire::https::CaInfo=/towline/ca.pem"; fi
if [ -f /towline/apt/mirrors.sed ]; then
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        if [ -f "$file" ]; then sed -f /towline/apt/mirrors.sed "$file" >"/towline/apt/parts/${file##*/}"; fi
    done
    settings="$settings -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/towline/apt/parts"
fi
# Builds that go on at the same time share what is kept.
exec 9>"$kept/lock"
flock 9
apt-get $settings --quiet=2 update
apt-get $settings --yes --quiet --no-install-recommends install @PACKAGES@
rm -f /var/log/dpkg.log /var/log/alternatives.log /var/cache/debconf/*-old /var/lib/dpkg/*-old
"""

_SED_SPECIAL: Final = re.compile(r"([\\.*\[\]^$&#])")


@dataclass(frozen=True)
class Mirrors:
    """Where packages of distributions come from in place of their own servers, credentials and all."""

    by_address: Mapping[str, str] = field(default_factory=dict)
    """URL of a mirror by the URL, or its beginning, that a base image's own sources name."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Return the mirrors' URLs."""
        return tuple(self.by_address.values())


def install_files(packages: Sequence[str], mirrors: Mirrors) -> Mapping[str, bytes]:
    """Make the small files of an installation of system packages, by their path in /towline.

    Args:
        packages: As apt-get takes them.
        mirrors: Where they come from.
    """
    wanted = " ".join(shlex.quote(package) for package in packages)
    files = {"install": _SCRIPT.replace("@PACKAGES@", wanted).encode(), "apt/auth.conf": _logins(mirrors)}
    if mirrors.by_address:
        files["apt/mirrors.sed"] = _changes(mirrors)
    return files


def _changes(mirrors: Mirrors) -> bytes:
    """Write, for sed, what of the sources becomes what; the longest address is the most special one."""
    lines = []
    for address in sorted(mirrors.by_address, key=len, reverse=True):
        mirror = urlsplit(mirrors.by_address[address])
        bare = urlunsplit(mirror._replace(netloc=mirror.netloc.rpartition("@")[2]))
        old, new = (_SED_SPECIAL.sub(r"\\\1", url.rstrip("/")) for url in (address, bare))
        lines.append(f"s#{old}\\(/\\|[[:space:]]\\|$\\)#{new}\\1#g\n")
    return "".join(lines).encode()


def _logins(mirrors: Mirrors) -> bytes:
    """Write the logins as apt reads them (apt_auth.conf)."""
    lines = []
    for url in map(urlsplit, mirrors.urls):
        if url.username is not None:
            machine = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
            login, password = unquote(url.username), unquote(url.password or "")
            lines.append(f"machine {machine} login {login} password {password}\n")
    return "".join(lines).encode()
