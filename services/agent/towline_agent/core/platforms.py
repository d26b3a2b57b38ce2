"""Platforms of images, in Docker's words: "linux/amd64", "linux/arm64", "linux/arm/v7"."""

__all__ = ["serves", "written"]


def written(os: str, architecture: str, variant: str = "") -> str:
    """Write a platform; the empty string where part of it is not told."""
    if not os or not architecture:
        return ""
    return "/".join(word for word in (os, architecture, variant) if word)


def serves(has: str, wanted: str) -> bool:
    """Tell whether what is of one platform is of the wanted one; what says no variant has any.

    Args:
        has: Of an image or an engine; empty: it is not told, and taken to be the wanted one.
        wanted: Empty: any.
    """
    if not has or not wanted:
        return True
    return all(one == other for one, other in zip(has.split("/"), wanted.split("/"), strict=False))
