"""Extra package indexes of a machine."""

from towline.capture.indexes import extra_index_urls, indexes_of


def test_variables_and_files_are_read_and_credentials_are_not(tmp_path):
    config = tmp_path / ".config/pip/pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[global]\nextra-index-url =\n  https://ada:pw@one.example/simple\n  https://two.example/%7Ex\n"
    )
    variables = {
        "HOME": str(tmp_path),
        "PIP_EXTRA_INDEX_URL": "https://token@three.example/simple https://two.example/%7Ex",
        "PIP_INDEX_URL": "https://main.example/simple",
        "UV_INDEX": "torch=https://four.example/whl/cu121 /local/folder",
    }
    assert extra_index_urls(variables, tmp_path)[:4] == [
        "https://three.example/simple",
        "https://two.example/%7Ex",
        "https://four.example/whl/cu121",
        "https://one.example/simple",
    ]


def test_a_chosen_file_is_the_only_one_and_a_broken_one_is_passed_over(tmp_path):
    chosen = tmp_path / "pip.conf"
    chosen.write_text("[install]\nextra-index-url = https://one.example\n")
    assert extra_index_urls({"PIP_CONFIG_FILE": str(chosen)}, tmp_path) == ["https://one.example"]
    chosen.write_text("extra-index-url = no section")
    assert extra_index_urls({"PIP_CONFIG_FILE": str(chosen)}, tmp_path) == []
    assert extra_index_urls({"PIP_CONFIG_FILE": "/dev/null"}, tmp_path) == []


def test_uv_is_asked_too_without_its_main_index_and_the_project_counts(tmp_path):
    home = tmp_path / "home"
    (home / ".config/uv").mkdir(parents=True)
    (home / ".config/uv/uv.toml").write_text('extra-index-url = ["https://ada:pw@user.example/simple"]')
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[[tool.uv.index]]\nname = "torch"\nurl = "https://torch.example/cu121"\nexplicit = true\n'
        '[[tool.uv.index]]\nurl = "https://main.example/simple"\ndefault = true\n'
        '[tool.uv.pip]\nextra-index-url = ["https://pip.example/simple"]\n'
    )
    variables = {"HOME": str(home), "PIP_CONFIG_FILE": "/dev/null"}
    assert extra_index_urls(variables, project)[:3] == [
        "https://torch.example/cu121",
        "https://pip.example/simple",
        "https://user.example/simple",
    ]
    (project / "uv.toml").write_text('extra-index-url = 3\n[pip]\nextra-index-url = ["https://u.example"]\n')
    assert extra_index_urls(variables, project)[0] == "https://u.example", (
        "uv.toml goes before pyproject.toml"
    )
    (project / "uv.toml").write_text("no toml")
    assert extra_index_urls(variables, project)[0] == "https://user.example/simple"
    assert extra_index_urls(variables | {"UV_NO_CONFIG": "1"}, project) == []


def test_the_configuration_of_the_interpreters_environment_counts(tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = https://venv.example\n")
    assert extra_index_urls({"HOME": "/nonexistent"}, tmp_path, str(tmp_path))[0] == "https://venv.example"


def test_builds_of_pytorch_tell_their_index():
    pins = [
        "torch==2.5.1+cu121",
        "torchvision==0.20.1+cu121",
        "torchaudio==2.5.1+cpu",
        "torch==2.6.0",
        "a==1+cpu",
    ]
    assert indexes_of(pins) == [
        "https://download.pytorch.org/whl/cu121",
        "https://download.pytorch.org/whl/cpu",
    ]
