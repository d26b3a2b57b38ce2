"""What W&B's SDK wrote is read, repaired, and told of where it cannot be carried over."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from towline.capture import images
from towline.capture.images import Resolved
from towline.capture.wandb_defaults import defaults_in
from towline.capture.wandb_import import Wanted, read_folder
from towline.capture.wandb_job import read_job
from towline.capture.wandb_metadata import defaults_of, read_metadata
from towline.capture.wandb_notes import Notes
from towline.capture.wandb_patch import read_patch
from towline.capture.wandb_requirements import read_frozen
from towline.capture.wandb_types import schema_of
from towline.cli import yaml_files
from towline.errors import FailedPrecondition, InvalidArgument, TowlineError
from towline.requests.json_schemas import Schema
from towline.runtime.wandb_program import COMMAND, environment_of

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "wandb-jobs"
LOGGED_CODE = SAMPLES / "core-autojob-artifact_code_artifact"
JOBS = sorted(file.parent for file in SAMPLES.glob("*/wandb-job.json"))
COMMIT = "6cc5471cd4d1a171931940ce39682f321efbb4c0"
EMPTY = {"wb_type": "typedDict", "params": {"type_map": {}}}
BASE = {
    "_version": "v0",
    "source_type": "repo",
    "source": {
        "git": {"remote": "https://host.example/team/project.git", "commit": COMMIT},
        "entrypoint": ["python", "jobs/train.py"],
        "notebook": False,
    },
    "input_types": EMPTY,
    "output_types": EMPTY,
    "runtime": "3.11",
}


def changed(**changes):
    """Give the base job with fields changed by their path, "__" between its parts; None takes one away."""
    job = json.loads(json.dumps(BASE))
    for path, value in changes.items():
        *parents, key = path.split("__")
        inner = job
        for parent in parents:
            inner = inner[parent]
        if value is None:
            del inner[key]
        else:
            inner[key] = value
    return job


def folder_of(tmp_path, job=BASE, frozen="", patch=None):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "wandb-job.json").write_text(json.dumps(job))
    (folder / "requirements.frozen.txt").write_text(frozen)
    if patch is not None:
        (folder / "diff.patch").write_bytes(patch)
    return folder


def imported(folder, code=None, **wanted):
    """Import a folder up to where the registry comes in: the import, the spec and what would be uploaded."""
    found = read_folder(Wanted(folder, **wanted), yaml_files.load)
    with found.prepared(code) as prepared:
        spec = prepared.spec([f"sha256:{'0' * 64}" for _ in prepared.blobs])
        blobs = [blob if isinstance(blob, bytes) else blob.read_bytes() for blob in prepared.blobs]
    return found, spec, blobs


def places(notes):
    return [note.place for note in notes]


@pytest.mark.parametrize("folder", JOBS, ids=lambda folder: folder.name)
def test_every_sample_imports(folder):
    code = LOGGED_CODE if "wandb-artifact" in (folder / "wandb-job.json").read_text() else None

    found, spec, _ = imported(folder, code)

    Schema(spec.input_schema_json)
    assert found.name
    assert spec.WhichOneof("source")
    assert spec.HasField("image") or tuple(spec.entrypoint[:5]) == (*COMMAND, "python")
    assert not any("CPython" in word for word in [*spec.entrypoint, spec.python.version])


def test_the_sample_of_a_code_artifact_is_repaired():
    found, spec, (tree,) = imported(SAMPLES / "core-autojob-artifact", LOGGED_CODE)

    assert found.name == "train2"
    assert list(spec.entrypoint[4:]) == ["python", "train2.py"]
    assert spec.python.version == "3.11.7"
    assert "wandb==0.31.0" in spec.python.requirements
    assert not any(line.startswith("pip==") for line in spec.python.requirements)
    assert b"run.finish()" in tree
    schema = json.loads(spec.input_schema_json)
    assert schema["properties"]["layers"] == {"type": "array", "items": {"type": "number"}}
    assert schema["properties"]["nested"]["properties"] == {"flag": {"type": "boolean"}}
    assert schema["additionalProperties"] is False
    results = json.loads(spec.provenance.result_schema_json)
    assert set(results["properties"]) == {"acc", "loss"}
    assert places(found.notes.repaired) == [
        "source.entrypoint",
        "runtime",
        "source.entrypoint",
        "input_types",
    ]
    assert json.loads(spec.config_json) == {
        "lr": 0.1,
        "epochs": 3,
        "name": "x",
        "layers": [8, 8],
        "nested": {"flag": True},
    }
    assert places(found.notes.left_out) == ["requirements.frozen.txt"]


def test_the_sample_of_a_repository_keeps_its_patch_or_has_it_in_the_code():
    folder = SAMPLES / "core-autojob-repo_save_code"

    _, spec, (patch,) = imported(folder)
    found, with_code, _ = imported(folder, LOGGED_CODE)

    assert (spec.git.remote, spec.git.commit) == ("https://github.com/example/launch-demo.git", COMMIT)
    assert spec.git.patch_digest
    assert patch == (folder / "diff.patch").read_bytes()
    assert with_code.HasField("code")
    assert with_code.provenance.git_commit == COMMIT
    assert any(note.text.endswith("already") for note in found.notes.repaired)


def test_the_patch_is_applied_to_the_code(tmp_path):
    code = tmp_path / "clean"
    (code / "jobs").mkdir(parents=True)
    after = (LOGGED_CODE / "train2.py").read_text()
    (code / "jobs" / "train2.py").write_text(after.removesuffix("# dirty change\n"))

    _, spec, (tree,) = imported(SAMPLES / "core-autojob-repo_save_code", code)

    assert list(spec.entrypoint[4:]) == ["python", "jobs/train2.py"]
    assert b"# dirty change" in tree
    assert "# dirty change" not in (code / "jobs" / "train2.py").read_text()


def test_a_script_may_come_with_the_patch(tmp_path):
    (tmp_path / "code").mkdir()
    patch = (
        b"diff --git a/jobs/train.py b/jobs/train.py\nnew file mode 100644\nindex 0000000..257cc56\n"
        b"--- /dev/null\n+++ b/jobs/train.py\n@@ -0,0 +1 @@\n+print('new')\n"
    )

    _, spec, (tree,) = imported(folder_of(tmp_path, patch=patch), tmp_path / "code")

    assert spec.entrypoint[-1] == "jobs/train.py"
    assert b"print('new')" in tree


def test_a_patch_that_does_not_fit_is_refused(tmp_path):
    code = tmp_path / "other"
    (code / "jobs").mkdir(parents=True)
    (code / "jobs" / "train2.py").write_text("print('something else')\n")

    with pytest.raises(FailedPrecondition, match=r"diff\.patch does not fit .*patch does not apply"):
        imported(SAMPLES / "core-autojob-repo_save_code", code)


def test_runs_that_wandb_keeps_beside_the_code_stay_out(tmp_path):
    code = tmp_path / "code"
    (code / "wandb" / "run-1").mkdir(parents=True)
    (code / "wandb" / "run-1" / "output.log").write_text("a run of long ago")
    (code / "train.py").write_text("import wandb\n")

    _, _, (tree,) = imported(folder_of(tmp_path), code)

    assert b"import wandb" in tree
    assert b"long ago" not in tree


def test_the_image_sample_keeps_the_name_that_wandb_gave_it():
    folder = SAMPLES / "python-jobbuilder-image"

    found, spec, blobs = imported(folder, metadata=folder / "_artifact_info.json")

    assert found.name == "job-registry.example.com_5000_team_train"
    assert spec.image.reference == "registry.example.com:5000/team/train:v1.2"
    assert not spec.HasField("python")
    assert not spec.entrypoint
    assert not blobs


@pytest.mark.parametrize(
    ("runtime", "entrypoint", "version"),
    [
        ("CPython 3.12.4", ["python", "a.py"], "3.12.4"),
        ("3.10.2", ["python", "a.py"], "3.10.2"),
        ("3.9", ["python", "a.py"], "3.9"),
        ("", ["pythonCPython 3.12", "a.py"], "3.12"),
        ("", ["python3", "a.py"], "3.11"),
        (None, ["python", "a.py"], "3.11"),
    ],
)
def test_versions_of_python_are_read(runtime, entrypoint, version):
    job = read_job(changed(runtime=runtime, source__entrypoint=entrypoint), Notes())

    assert job.python == version
    assert job.entrypoint[0] in ("python", "python3")


def test_an_empty_list_of_packages_is_repaired_from_the_code(tmp_path):
    code = tmp_path / "code"
    (code / "jobs").mkdir(parents=True)
    (code / "jobs" / "train.py").write_text("import os\nfrom wandb import init\n")
    folder = folder_of(tmp_path, frozen="\n")

    _, guessed, _ = imported(folder, code)
    (code / "requirements.txt").write_text("numpy>=2  # fast\n-r more.txt\n")
    found, listed, _ = imported(folder, code)

    assert list(guessed.python.requirements) == ["wandb"]
    assert list(listed.python.requirements) == ["numpy>=2"]
    assert "requirements.txt line 2" in places(found.notes.left_out)


def test_packages_that_cannot_be_installed_elsewhere_are_listed():
    notes = Notes()
    frozen = read_frozen(
        "torch==2.4.0+cu121\nPillow==11.0\npillow==10.0\n"
        "-e git+https://user:token@host.example/lib.git@0123abc#egg=lib\n"
        "own @ file:///home/me/own\n--index-url https://host.example\nwandb==0.31.0\nunwanted==1\n??\n",
        ["Unwanted"],
        notes,
    )

    assert frozen.requirements == [
        "torch==2.4.0+cu121",
        "Pillow==11.0",
        "lib @ git+https://host.example/lib.git@0123abc",
        "wandb==0.31.0",
    ]
    assert frozen.extra_index_urls == ["https://download.pytorch.org/whl/cu121"]
    left = [f"requirements.frozen.txt line {number}" for number in (5, 6, 8, 9)]
    assert places(notes.left_out) == left
    assert "token" not in str(notes)


def test_what_has_no_place_in_towline_is_listed_with_the_reason():
    notes = Notes()
    job = changed(
        source__dockerfile="Dockerfile.gpu",
        source__build_context="jobs",
        source__base_image="nvidia/cuda:12",
        services={"foundation": "always"},
        _partial=True,
    )

    read_job(job, notes)

    assert places(notes.left_out) == [
        "source.dockerfile",
        "source.build_context",
        "source.base_image",
        "services",
    ]
    assert all(len(note.text) > 30 for note in notes.left_out)
    assert "_partial" in places(notes.repaired)


def test_a_notebook_is_started_as_a_script_of_its_cells(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "x = 1"]},
        {"cell_type": "code", "source": "if x:\n    !ls\nprint(x)"},
        {"cell_type": "code", "source": "%%bash\nls"},
    ]
    code = tmp_path / "code"
    code.mkdir()
    (code / "train.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    job = changed(source__entrypoint=["python3", "train.ipynb"], source__notebook=True)
    folder = folder_of(tmp_path, job)

    found, spec, (tree,) = imported(folder, code)
    without, _, _ = imported(folder)
    (code / "train.ipynb").write_text("[]")

    assert list(spec.entrypoint[4:]) == ["python3", "train.py"]
    with tarfile.open(fileobj=io.BytesIO(tree)) as tar:
        script = tar.extractfile("train.py").read().decode()
    assert script == (
        "pass  # %matplotlib inline\nx = 1\n\n\nif x:\n    pass  # !ls\nprint(x)\n\n\n# %%bash\n# ls\n"
    )
    assert places(found.notes.left_out).count("train.ipynb") == 4
    assert "source.notebook" in places(without.notes.left_out)
    with pytest.raises(InvalidArgument, match=r"train\.ipynb: is no notebook"):
        imported(folder, code)


def test_jobs_from_windows_and_facts_of_wandb_itself_are_repaired():
    notes = Notes()
    types = {"wb_type": "typedDict", "params": {"type_map": {"_wandb": EMPTY, "lr": {"wb_type": "number"}}}}
    entrypoint = ["python.exe", "jobs\\train.py"]

    job = read_job(changed(source__entrypoint=entrypoint, input_types=types), notes)

    assert job.entrypoint == ("python", "jobs/train.py")
    assert job.input_schema["properties"] == {"lr": {"type": "number"}}


def test_passwords_are_taken_out_of_the_remote():
    notes = Notes()

    job = read_job(changed(source__git__remote="https://me:secret@host.example/p.git"), notes)

    assert job.source.remote == "https://host.example/p.git"
    assert "secret" not in str(notes)


def test_arguments_of_an_image_are_its_command_unless_they_are_options():
    image = {"source_type": "image", "runtime": "", "source": {"image": "a/b:1", "args": ["python", "x.py"]}}

    assert read_job(changed(**image), Notes()).entrypoint == ("python", "x.py")
    image["source"]["args"] = ["--lr", "1"]
    with pytest.raises(InvalidArgument, match=r"wandb-job\.json: source\.args: .* after --"):
        read_job(changed(**image), Notes())
    assert read_job(changed(**image), Notes(), command=["sh", "x"]).entrypoint == ("sh", "x")


@pytest.mark.parametrize(
    ("job", "field"),
    [
        ([], ""),
        ({}, "source_type"),
        (changed(source_type="notebook"), "source_type"),
        (changed(source_type=3), "source_type"),
        (changed(source="x"), "source.git.remote"),
        (changed(source__git=None), "source.git.remote"),
        (changed(source__git__commit="main"), "source.git.commit"),
        (changed(source__entrypoint=[]), "source.entrypoint"),
        (changed(source__entrypoint="python a.py"), "source.entrypoint"),
        (changed(runtime="Python 2.7"), "runtime"),
        (changed(runtime=["3.11"]), "runtime"),
        (changed(source_type="artifact"), "source.artifact"),
        (changed(input_types={"type_map": {}, "params": {"type_map": {"a": 1}}}), "input_types"),
        (changed(input_types={"wb_type": "typedDict", "params": {"type_map": {"a": 1}}}), "input_types.a"),
        (changed(input_types={"wb_type": "number", "params": {"type_map": 1}}), "input_types"),
        (changed(output_types=[1]), "output_types"),
        (changed(services=["a"]), "services"),
    ],
)
def test_malformed_jobs_are_refused_with_file_and_field(job, field):
    with pytest.raises(InvalidArgument) as refused:
        read_job(job, Notes())

    assert refused.value.metadata == {"file": "wandb-job.json", "field": field}
    assert refused.value.message.startswith("wandb-job.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"wandb-job\.json: is not JSON.*line 1"),
        (b"\xff", r"wandb-job\.json: is no text in UTF-8"),
        (b'{"a": NaN}', r"wandb-job\.json: is not JSON: NaN"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, content, said):
    (tmp_path / "wandb-job.json").write_bytes(content)

    with pytest.raises(InvalidArgument, match=said):
        read_folder(Wanted(tmp_path), yaml_files.load)


def test_what_is_missing_is_named(tmp_path):
    folder = folder_of(tmp_path, changed(source_type="artifact", source__artifact="wandb-artifact://_id/x"))

    def refused(said, *arguments, **wanted):
        with pytest.raises(TowlineError, match=said):
            imported(*arguments, **wanted)

    refused("is not a folder", tmp_path / "nowhere")
    refused(r"wandb-job\.json: is not in", tmp_path)
    refused("source.artifact: W&B's server has the code, as wandb-artifact://_id/x", folder)
    refused(r"--code: .*has no jobs/train\.py", folder, tmp_path)
    refused("--code: .* is not a folder", folder, tmp_path / "nowhere")
    refused("--artifact-metadata: there is no file", folder, metadata=tmp_path / "nowhere.json")
    refused("--requirements: there is no file", folder, requirements=tmp_path / "nowhere.txt")


def test_a_remote_that_agents_cannot_fetch_needs_the_code(tmp_path):
    folder = folder_of(tmp_path, changed(source__git__remote="/home/me/project"))

    with pytest.raises(InvalidArgument, match=r"source\.git\.remote: .*--code"):
        imported(folder)


def test_images_are_resolved_and_what_is_no_reference_is_refused(tmp_path):
    image = changed(source_type="image", source={"image": "Not An Image"})
    found = read_folder(Wanted(folder_of(tmp_path, image)), yaml_files.load)
    digest = f"a/b@sha256:{'1' * 64}"

    with pytest.raises(InvalidArgument, match=r"wandb-job\.json: source\.image: .* is no image reference"):
        found.prepared(None, images.resolve).__enter__()
    with found.prepared(None, lambda reference: Resolved(digest, reference)) as prepared:
        spec = prepared.spec([])

    assert (spec.image.reference, spec.image.requested) == (digest, "Not An Image")


def test_binary_files_of_a_patch_are_left_out():
    text = b"diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1 +1 @@\n-a\n+b\n"
    binary = (
        b"diff --git a/p q.png b/p q.png\nindex 1..2 100644\nBinary files a/p q.png and b/p q.png differ\n"
    )
    notes = Notes()

    patch = read_patch(binary + b"Submodule lib 1..2:\n" + text, notes)

    assert patch.content == text
    assert notes.left_out[0].text.startswith("p q.png:")
    assert "lib" in notes.repaired[0].text
    assert not read_patch(b"\n", notes)
    with pytest.raises(ValueError, match="no output of git diff"):
        read_patch(b"hello\n", notes)


def test_a_damaged_patch_is_refused(tmp_path):
    patch = b"diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1,9 +1 @@\n-a\n"

    with pytest.raises(InvalidArgument, match=r"diff\.patch: git does not read it as a patch"):
        imported(folder_of(tmp_path, patch=patch))


def test_types_become_schemas():
    def seen(place, name):
        unknown.append((place, name))

    unknown = []
    number, text = {"wb_type": "number"}, {"wb_type": "string"}
    members = {
        "either": {"wb_type": "union", "params": {"allowed_types": [number, {"wb_type": "none"}]}},
        "one": {"wb_type": "const", "params": {"val": 3, "is_set": False}},
        "some": {"wb_type": "const", "params": {"val": ["a", "b"], "is_set": True}},
        "rows": {"wb_type": "list", "params": {"element_type": text, "length": 2}},
        "image": {"wb_type": "image-file"},
    }

    schema = schema_of({"wb_type": "dictionary", "params": {"type_map": members}}, "in", seen)

    assert schema["properties"] == {
        "either": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "one": {"const": 3},
        "some": {"enum": ["a", "b"]},
        "rows": {"type": "array", "items": {"type": "string"}},
        "image": {},
    }
    assert unknown == [("in.image", "image-file")]


METADATA = {
    "input_types": {
        "@wandb.config": {
            "wb_type": "typedDict",
            "params": {"type_map": {"lr": {"wb_type": "number"}, "seed": {"wb_type": "number"}}},
        },
        "files": {"conf/model.yaml": EMPTY, "conf/gone.yaml": EMPTY},
    },
    "input_schemas": {
        "@wandb.config": {
            "type": "object",
            "properties": {"lr": {"type": "number", "maximum": 1, "default": 0.5}},
            "required": ["lr"],
        }
    },
}


def test_defaults_are_read_from_the_script_where_it_has_them_as_plain_values():
    schema = {"properties": {"lr": {"type": "number"}, "name": {"type": "string"}, "n": {"type": "number"}}}
    script = b"""
import wandb
from wandb import init as begin
n = 3
run = %s(project="p", config={"lr": 0.5, "name": 7, "n": n, "other": 1, **more})
"""

    assert defaults_in(script % b"wandb.init", schema) == {"lr": 0.5}
    assert defaults_in(script % b"begin", schema) == {"lr": 0.5}
    assert defaults_in(script % b"other.init", schema) == {}
    assert defaults_in(script % b"wandb.init" + b"wandb.init()", schema) == {}
    assert defaults_in(b"import wandb; wandb.init(config=dict(lr=1, a=[1, None]))", {}) == {
        "lr": 1,
        "a": [1, None],
    }
    assert defaults_in(b"def broken(", schema) == {}


def test_managed_inputs_are_read_from_the_metadata(tmp_path):
    code = tmp_path / "code"
    (code / "jobs").mkdir(parents=True)
    (code / "conf").mkdir()
    (code / "jobs" / "train.py").write_text("")
    (code / "conf" / "model.yaml").write_text("depth: 4\nact: relu\n")
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps({"name": "my job:v3", "type": "job", "metadata": METADATA}))

    found, spec, _ = imported(folder_of(tmp_path), code, metadata=file)

    assert found.name == "my_job"
    assert json.loads(spec.config_json) == {"lr": 0.5, "model": {"depth": 4, "act": "relu"}}
    assert [(each.path, each.key) for each in spec.config_files] == [("conf/model.yaml", "model")]
    schema = json.loads(spec.input_schema_json)
    assert schema["properties"]["lr"] == {"type": "number", "maximum": 1, "default": 0.5}
    assert schema["properties"]["seed"] == {"type": "number"}
    assert schema["properties"]["model"] == {"type": "object"}
    assert schema["additionalProperties"] is False
    assert "required" not in schema
    assert "input_types.files.conf/gone.yaml" in places(found.notes.left_out)
    assert not list(Schema(spec.input_schema_json).violations(json.loads(spec.config_json)))


def test_malformed_metadata_is_refused_with_file_and_field():
    for written, said in (
        ([], "m.json: must hold a JSON object"),
        ({"metadata": [1]}, "m.json: metadata.input_types: must be an object"),
        ({"input_schemas": {"@wandb.config": 3}}, "m.json: input_schemas.@wandb.config: must be an object"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            read_metadata(written, "m.json", Notes())
        assert refused.value.message.startswith(said)
    assert defaults_of({"properties": {"a": {"properties": {"b": {"default": 1}}}, "c": True}}) == {
        "a": {"b": 1}
    }


def test_programs_of_wandb_get_the_parameters_of_the_run():
    offline = environment_of({"TOWLINE_OUTPUTS": "/out"}, '{"lr": 1}')
    online = environment_of({"WANDB_API_KEY": "k", "WANDB_DIR": "/tmp"}, "x" * 150_000)

    assert offline == {
        "WANDB_LAUNCH": "true",
        "WANDB_CONFIG": '{"lr": 1}',
        "WANDB_MODE": "offline",
        "WANDB_DIR": "/out",
    }
    assert set(online) == {"WANDB_LAUNCH", "WANDB_CONFIG_0", "WANDB_CONFIG_1"}
    assert online["WANDB_CONFIG_0"] + online["WANDB_CONFIG_1"] == "x" * 150_000
