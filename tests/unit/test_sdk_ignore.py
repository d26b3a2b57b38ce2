"""Which files never leave a person's machine."""

import pytest

from towline.capture.ignore import Rules, Verdict, is_environment_marker


def rules_of(files: dict[str, list[str]] | list[str], **options: bool) -> Rules:
    """Read a .towlineignore, or several ignore files by path."""
    given = files if isinstance(files, dict) else {".towlineignore": files}
    return Rules(lambda path: given.get(path, ()), **options)


@pytest.mark.parametrize(
    ("path", "verdict"),
    [
        ("train.py", Verdict.KEPT),
        ("data/train.csv", Verdict.KEPT),
        (".github/workflows/ci.yml", Verdict.KEPT),
        (".git/config", Verdict.LEFT_OUT),
        ("sub/.git", Verdict.LEFT_OUT),
        ("towline-outputs/1/model.pt", Verdict.LEFT_OUT),
        ("pkg/__pycache__/a.cpython-311.pyc", Verdict.LEFT_OUT),
        ("old.pyc", Verdict.LEFT_OUT),
        ("web/node_modules/a/index.js", Verdict.LEFT_OUT),
        (".env", Verdict.LOOKS_SECRET),
        ("deploy/.env.production", Verdict.LOOKS_SECRET),
        (".env.example", Verdict.KEPT),
        ("certs/server.pem", Verdict.LOOKS_SECRET),
        (".ssh/id_rsa", Verdict.LOOKS_SECRET),
        ("id_rsa.pub", Verdict.KEPT),
        ("credentials.json", Verdict.LOOKS_SECRET),
        ("gcp-Credentials-prod.JSON", Verdict.LOOKS_SECRET),
        ("my_credentials.json.py", Verdict.KEPT),
        ("lib/credentials.py", Verdict.KEPT),
        ("credentials/token.txt", Verdict.LOOKS_SECRET),
        ("credentials/__init__.py", Verdict.KEPT),
        ("shadow_model.py", Verdict.KEPT),
        ("backup/shadow", Verdict.LOOKS_SECRET),
        ("shadow-", Verdict.LOOKS_SECRET),
        ("home/.aws/config", Verdict.LOOKS_SECRET),
        (".aws/scripts/rotate.py", Verdict.LOOKS_SECRET),
        (".kube/config", Verdict.LOOKS_SECRET),
        (".ssh/known_hosts", Verdict.LOOKS_SECRET),
        (".docker/config.json", Verdict.LOOKS_SECRET),
        ("deploy/.docker/config.json", Verdict.LOOKS_SECRET),
        ("config.json", Verdict.KEPT),
        (".docker/Dockerfile", Verdict.KEPT),
        (".netrc", Verdict.LOOKS_SECRET),
        (".pypirc", Verdict.LOOKS_SECRET),
        (".git-credentials", Verdict.LOOKS_SECRET),
        ("tls/server.key", Verdict.LOOKS_SECRET),
        ("tls/server.p12", Verdict.LOOKS_SECRET),
        ("tls/server.pfx", Verdict.LOOKS_SECRET),
        ("conf/secrets.yaml", Verdict.LOOKS_SECRET),
        ("conf/secrets.py", Verdict.KEPT),
        ("gcp/service-account-prod.json", Verdict.LOOKS_SECRET),
        (".pgpass", Verdict.LOOKS_SECRET),
        ("home/.gnupg/pubring.kbx", Verdict.LOOKS_SECRET),
    ],
)
def test_without_a_file_of_rules(path, verdict):
    assert rules_of({}).file(path) is verdict


def test_rules_leave_out_and_keep():
    rules = rules_of(
        ["# comment", "", "data/", "*.bin", "!keep/a.bin", "!certs/ca.pem", "!node_modules/", "/top.txt"]
    )
    assert rules.file("data/train.csv") is Verdict.LEFT_OUT
    assert rules.file("sub/data/x") is Verdict.LEFT_OUT
    assert rules.file("a.bin") is Verdict.LEFT_OUT
    assert rules.file("keep/a.bin") is Verdict.KEPT
    assert rules.file("certs/ca.pem") is Verdict.KEPT
    assert rules.file("certs/key.pem") is Verdict.LOOKS_SECRET
    assert rules.file("node_modules/x.js") is Verdict.LEFT_OUT
    assert rules.file("top.txt") is Verdict.LEFT_OUT
    assert rules.file("sub/top.txt") is Verdict.KEPT
    secrets = rules_of(["!.aws/", "!/tests/credentials.json"])
    assert secrets.file(".aws/config") is Verdict.KEPT
    assert secrets.file("tests/credentials.json") is Verdict.KEPT
    assert secrets.file("credentials.json") is Verdict.LOOKS_SECRET
    assert rules.folder("data")
    assert not rules.folder("keep")


def test_environments_are_known_by_their_markers():
    assert is_environment_marker("tools/venv/pyvenv.cfg") == "tools/venv"
    assert is_environment_marker("env/conda-meta/history") == "env"
    assert is_environment_marker("docs/pyvenv.cfg.md") is None
