"""Extra package indexes of a machine."""

from towline.capture.indexes import extra_index_urls


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
    assert extra_index_urls(variables)[:4] == [
        "https://three.example/simple",
        "https://two.example/%7Ex",
        "https://four.example/whl/cu121",
        "https://one.example/simple",
    ]


def test_a_chosen_file_is_the_only_one_and_a_broken_one_is_passed_over(tmp_path):
    chosen = tmp_path / "pip.conf"
    chosen.write_text("[install]\nextra-index-url = https://one.example\n")
    assert extra_index_urls({"PIP_CONFIG_FILE": str(chosen)}) == ["https://one.example"]
    chosen.write_text("extra-index-url = no section")
    assert extra_index_urls({"PIP_CONFIG_FILE": str(chosen)}) == []
    assert extra_index_urls({"PIP_CONFIG_FILE": "/dev/null"}) == []
