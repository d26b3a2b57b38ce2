"""Requirements files, line by line."""

import pytest

from towline.requirement_files import Kind, read

FILE = """\ufeff# a comment
--index-url https://index.example/simple
-r other.txt   # and more
-cconstraints.txt
--constraint=more/constraints.txt
numpy==2.0.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
Scikit_Learn[extra]==1.5 ; python_version < "3.13"
pandas>=2,<3
torch==2.*

six
a @ https://host/a-1.0-py3-none-any.whl#sha256=aa
b @ git+https://host/b.git@c0ffee
git+https://host/c.git@c0ffee#egg=c
-e git+https://host/d.git@c0ffee#egg=d
-e .
--editable ./libs/x[dev] ; python_version > "3"
e @ file:./libs/e
./wheels/f-1.0-py3-none-any.whl
libs/g
h-1.0.tar.gz
--require-hashes"""


def test_each_kind_of_line():
    lines = [(line.number, line.kind.name, line.value, line.pinned) for line in read(FILE)]
    assert lines == [
        (2, "INDEX", "https://index.example/simple", True),
        (3, "INCLUDE", "other.txt", True),
        (4, "INCLUDE", "constraints.txt", True),
        (5, "INCLUDE", "more/constraints.txt", True),
        (6, "REQUIREMENT", "numpy", True),
        (9, "REQUIREMENT", "scikit-learn", True),
        (10, "REQUIREMENT", "pandas", False),
        (11, "REQUIREMENT", "torch", False),
        (13, "REQUIREMENT", "six", False),
        (14, "REQUIREMENT", "a", True),
        (15, "REQUIREMENT", "b", True),
        (16, "REQUIREMENT", "", True),
        (17, "REQUIREMENT", "", True),
        (18, "LOCAL", ".", True),
        (19, "LOCAL", "./libs/x", True),
        (20, "LOCAL", "./libs/e", True),
        (21, "LOCAL", "./wheels/f-1.0-py3-none-any.whl", True),
        (22, "LOCAL", "libs/g", True),
        (23, "LOCAL", "h-1.0.tar.gz", True),
        (24, "OPTION", "", True),
    ]


def test_lines_are_joined_and_comments_go():
    (line,) = read("numpy==2.0.1 \\\n    --hash=sha256:aa  # why\n")
    assert line.text == "numpy==2.0.1 --hash=sha256:aa"
    assert [line.text for line in read("a @ https://host/a.zip#sha256=aa\n")] == [
        "a @ https://host/a.zip#sha256=aa"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("six\nnot a requirement", "line 2 ('not a requirement') is no requirement"),
        ("numpy == ", "line 1 ('numpy ==') is no requirement"),
        ("--no-such-option x", "line 1 ('--no-such-option x') is no option that is known"),
        ("-r", "line 1 ('-r') is no option"),
        ("<html>", "is no requirement"),
        ("{", "is no requirement"),
    ],
)
def test_a_line_that_is_neither_is_named(text, said):
    with pytest.raises(ValueError, match="line") as caught:
        read(text)
    assert said in str(caught.value)


def test_nothing_is_a_requirements_file_too():
    assert read("\n# only a comment\n") == []
    assert Kind.LOCAL not in {line.kind for line in read("a.b\nc-d\n")}
