"""Names of versions, pages of lists, manifests, uploads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline import names
from towline.errors import InvalidArgument
from towline.v1.artifacts_pb2 import ArtifactFile, ArtifactVersion, UploadHeader
from towline_registry.core import digests, manifests, texts, versions
from towline_registry.core.uploads import Upload, UploadKey

DIGEST = digests.of(b"x")
JOB = names.job("jobs/train")


@given(st.integers(0, 999_999_999))
def test_versions_are_read_as_they_are_written(number: int) -> None:
    assert versions.number_of(versions.label(number)) == number


@pytest.mark.parametrize(
    "word", ["", "v", "v-1", "v01", "V1", "v1 ", "v1\n", "v٣", "v1000000000", "latest", "1"]
)
def test_what_is_no_version(word: str) -> None:
    assert versions.number_of(word) is None


def test_aliases_are_sorted_and_unique() -> None:
    assert versions.aliases(JOB, ["prod", "Best", "prod"], "aliases") == ["Best", "prod"]
    assert versions.aliases(JOB, [], "aliases") == []
    for word in ("latest", "v1", "v01", "", ".x", "-x", "a/b", "a b", "x" * 129, "ü"):
        with pytest.raises(InvalidArgument) as failure:
            versions.aliases(JOB, [word], "aliases")
        assert failure.value.metadata == {"field": "aliases"}
    with pytest.raises(InvalidArgument):
        versions.aliases(JOB, [f"a{n}" for n in range(65)], "aliases")


@pytest.mark.parametrize(
    "path", ["a", "a/b", "ü/ö", ".hidden", "..a/...", "a b", "-x", "new\nline", "a" * 255]
)
def test_relative_paths(path: str) -> None:
    assert texts.relative_path(path, "path") == path


@pytest.mark.parametrize(
    "path", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "./a", "a\0b", "a" * 256, "a/" * 2048 + "a"]
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        texts.relative_path(path, "path")
    assert failure.value.metadata == {"field": "path"}


def file(path: str, **fields: object) -> ArtifactFile:
    return ArtifactFile(**({"path": path, "digest": DIGEST, "size_bytes": 1} | fields))


def test_manifest() -> None:
    other = digests.of(b"other")
    made = manifests.checked([file("b"), file("a", digest=other, size_bytes=5, executable=True), file("c")])
    assert [each.path for each in ArtifactVersion.FromString(made.serialized).files] == ["a", "b", "c"]
    assert (made.size_bytes, made.file_count) == (7, 3)
    assert made.blobs == {DIGEST: 1, other: 5}
    assert made.digest == digests.of(made.serialized)
    assert manifests.checked([]).file_count == 0


@given(st.permutations([file(path) for path in ("a", "b/c", "b/d", "ü")]))
def test_order_of_files_does_not_change_the_digest(files: list[ArtifactFile]) -> None:
    assert manifests.checked(files).digest == manifests.checked(reversed(files)).digest


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([file("a"), file("a")], "files.path"),
        ([file("a/b/c"), file("a")], "files.path"),
        ([file("a-b"), file("a"), file("a/b")], "files.path"),
        ([file("../a")], "files.path"),
        ([file("a", digest="sha256:")], "files.digest"),
        ([file("a", size_bytes=1024**4 + 1)], "files.size_bytes"),
        ([file("a"), file("b", size_bytes=2)], "files.size_bytes"),
        ([file(str(n)) for n in range(100_001)], "files"),
    ],
)
def test_manifests_that_are_refused(files: list[ArtifactFile], field: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        manifests.checked(files)
    assert failure.value.metadata == {"field": field}


def test_spellings_of_an_upload_id_are_one_upload() -> None:
    plain = "0123456789abcdef0123456789abcdef"
    spellings = (plain, plain.upper(), "01234567-89ab-cdef-0123-456789abcdef", f"urn:uuid:{plain}")
    assert len({UploadKey.checked(spelling, DIGEST) for spelling in spellings}) == 1


def test_upload_header() -> None:
    header = UploadHeader(upload_id="0" * 32, digest=DIGEST, size_bytes=10, offset=10)
    assert (Upload.checked(header).size_bytes, Upload.checked(header).offset) == (10, 10)
    for field, value in (("upload_id", "x"), ("digest", "x"), ("size_bytes", -1), ("offset", 11)):
        wrong = UploadHeader()
        wrong.CopyFrom(header)
        setattr(wrong, field, value)
        with pytest.raises(InvalidArgument) as failure:
            Upload.checked(wrong)
        assert failure.value.metadata == {"field": f"header.{field}"}
