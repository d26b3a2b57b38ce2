"""The list of broken guards fits the code: each text is there once, each check exists."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from towline_testing import model_mutants

ROOT = Path(__file__).resolve().parents[2]
CHAOS = ROOT / "tests" / "chaos"


def _mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos_mutations", CHAOS / "mutations.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


MODULE = _mutations()
MUTATIONS = MODULE.MUTATIONS


def test_every_text_that_is_replaced_stands_once_in_its_file() -> None:
    for mutation in MUTATIONS:
        for edit in mutation.edits:
            count = (ROOT / edit.file).read_text().count(edit.old)
            assert count == 1, f"{mutation.name}: {count} times in {edit.file}: {edit.old!r}"
            assert edit.new != edit.old


def test_every_check_exists() -> None:
    scenarios = "\n".join(file.read_text() for file in CHAOS.glob("chaos_*.py"))
    for mutation in MUTATIONS:
        if mutation.check.startswith("scenario "):
            name = mutation.check.removeprefix("scenario ").replace("-", "_")
            assert f"def {name}(world: World)" in scenarios, mutation.check
        else:
            file, _, function = mutation.check.partition("::")
            assert re.search(rf"def {function}\(", (ROOT / file).read_text()), mutation.check


def test_names_tell_the_mutants_apart() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 12


def test_the_list_in_the_docs_is_this_list() -> None:
    assert _in_the_docs("mutants") == MODULE.table()
    assert _in_the_docs("model mutants") == model_mutants.table()


def _in_the_docs(name: str) -> str:
    page = (ROOT / "docs" / "chaos.md").read_text()
    return page.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- /{name} -->")[0]
