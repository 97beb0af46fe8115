"""Credentials of BMCs: who may read the file, what may stand in it, and that nothing shows it."""

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from tychod.collectors.redfish_credentials import (
    Bmc,
    CredentialsError,
    Secret,
    bmc_endpoint_problem,
    find_file,
    read_bmc,
)
from tychod.config import Host as Roots
from tychod.hostfs import Host

PASSWORD = "s3cr3t-of-the-bmc"
CSV = f"node-a,reader,{PASSWORD},https://192.0.2.1\nnode-b,reader,other,https://192.0.2.2:8443\n"
TOML = f'endpoint = "https://192.0.2.1"\nusername = "reader"\npassword = "{PASSWORD}"\n'
HOST = Host(Roots())

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return what writes a private file."""

    def do(text: str | bytes, name: str = "bmc.csv", mode: int = 0o600) -> str:
        file = tmp_path / name
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)
        return str(file)

    return do


def read(path: str, node: str = "node-a", host: Host = HOST) -> Bmc:
    """Read the BMC of a node."""
    return read_bmc(host, path, node)


def refusal(path: str, node: str = "node-a", host: Host = HOST) -> CredentialsError:
    """Return why a file is refused; it never holds the password."""
    with pytest.raises(CredentialsError) as caught:
        read(path, node, host)
    error = caught.value
    assert PASSWORD not in f"{error!r} {error} {error.reason} {error.remedy}"
    assert error.__cause__ is None
    assert "\n" not in error.reason
    return error


def test_a_secret_shows_nowhere() -> None:
    """No way of printing, formatting or writing an object gives the text away."""
    bmc = Bmc("https://192.0.2.1", "reader", Secret(PASSWORD))

    shown = [repr(bmc), str(bmc), f"{bmc}", f"{bmc.password}", f"{bmc.password!r}", str(vars)]
    with pytest.raises(TypeError):
        pickle.dumps(bmc)
    with pytest.raises(TypeError):
        copy.copy(bmc.password)
    assert not any(PASSWORD in text for text in shown)
    assert bmc.password.reveal() == PASSWORD


@pytest.mark.parametrize(("node", "endpoint"), [("node-a", "192.0.2.1"), ("node-b", "192.0.2.2")])
def test_csv_tells_the_bmc_of_each_node(write: Write, node: str, endpoint: str) -> None:
    """One line for each node; the name chooses."""
    found = read(write(f"# ours\n\n{CSV}"), node)

    assert found.endpoint.startswith(f"https://{endpoint}")
    assert found.username == "reader"


def test_toml_of_one_bmc_is_for_whoever_reads_it(write: Write) -> None:
    """A node's own file names no node."""
    assert read(write(TOML, "bmc.toml"), "any").password.reveal() == PASSWORD


@pytest.mark.parametrize(("name", "text"), [("redfish", CSV), ("redfish", TOML), ("x.conf", TOML)])
def test_a_name_that_tells_no_form_is_read_by_its_first_line(
    write: Write, name: str, text: str
) -> None:
    """Systemd's credential has no suffix."""
    assert read(write(text, name)).password.reveal() == PASSWORD


def test_a_quoted_password_may_hold_a_comma(write: Write) -> None:
    """As CSV has it (RFC 4180)."""
    line = 'node-a,reader,"with, comma and ""quotes""",https://192.0.2.1\n'

    assert read(write(line)).password.reveal() == 'with, comma and "quotes"'


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601, 0o660])
def test_bits_for_others_are_refused_with_the_command_that_mends_it(
    write: Write, mode: int
) -> None:
    """The file, its mode, and what to type."""
    path = write(CSV, mode=mode)

    error = refusal(path)

    assert f"{path} has mode {mode:04o}" in error.reason
    assert error.remedy == f"chmod 0600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(write: Write) -> None:
    """Whoever owns it could change where the password goes."""
    path = write(CSV)
    os.chown(path, 12345, 12345)

    error = refusal(path)

    assert "belongs to neither root nor tychod's user" in error.reason
    assert error.remedy == f"chown root {path}"


def test_a_path_in_a_command_is_quoted(write: Write) -> None:
    """What is to be typed must not do something else."""
    assert refusal(write(CSV, "a b;c.csv", 0o644)).remedy.endswith("/a b;c.csv'")


def test_systemds_credential_is_private_by_itself(tmp_path: Path, write: Write) -> None:
    """An access list for the service's user shows as a bit of the group."""
    path = write(TOML, "redfish", 0o440)
    host = Host(Roots(), str(tmp_path))

    assert find_file(host, "") == path
    assert read(path, host=host).password.reveal() == PASSWORD
    assert "mode 0440" in refusal(path).reason


def test_the_settings_come_before_systemds_credential(tmp_path: Path, write: Write) -> None:
    """A file that is named is the one that counts; without either there is none."""
    write(TOML, "redfish")

    assert find_file(Host(Roots(), str(tmp_path)), "/etc/x.csv") == "/etc/x.csv"
    assert find_file(Host(Roots(), str(tmp_path / "none")), "") == ""
    assert find_file(HOST, "") == ""


def test_links_and_pipes_are_refused_without_being_opened(tmp_path: Path, write: Write) -> None:
    """A link leads anybody's file here; a pipe would wait for ever."""
    link, pipe = tmp_path / "link.csv", tmp_path / "pipe.csv"
    link.symlink_to(write(CSV))
    os.mkfifo(pipe, 0o600)

    for path in (link, pipe, tmp_path):
        assert "is a link or no regular file" in refusal(str(path)).reason
    assert "no such file" in refusal(str(tmp_path / "none.csv")).reason


BAD = (
    ("node-a,reader\n", "line 1 has 2 fields"),
    (f"{CSV}node-c,reader,{PASSWORD},x,https://192.0.2.1\n", "line 3 has 5 fields"),
    (f"#\n\nnode-a,reader,{PASSWORD},http://192.0.2.1\n", "line 3: the endpoint is not an address"),
    (f"node-a,reader,{PASSWORD},https://u:{PASSWORD}@192.0.2.1\n", "line 1: the endpoint must be"),
    (f"node-a,reader,{PASSWORD},https://192.0.2.1/x\n", "line 1: the endpoint must be"),
    (f"node-a,reader,{PASSWORD},\n", "line 1: endpoint is required"),
    (f"node-a,,{PASSWORD},https://192.0.2.1\n", "line 1: user and password go together"),
    (f"node-a,rea:der,{PASSWORD},https://192.0.2.1\n", "line 1: a user's name may hold no colon"),
    (f"node-a,reader,{PASSWORD}\x1b[2J,https://192.0.2.1\n", "line 1: the password is too long or"),
    (f",reader,{PASSWORD},https://192.0.2.1\n", "line 1 names no node"),
    (f'node-a,reader,"{PASSWORD},https://192.0.2.1\n', "line 1 has a quote that does not fit"),
    (f"{CSV}{CSV}", "lines 1 and 3 are of the same node"),
    ("# nothing\n", "no nodes configured"),
    (b"node-a,reader,\xff\xfe,https://192.0.2.1\n", "is not text in UTF-8"),
    (b"#" * ((1 << 20) + 5), "is longer than 1 MiB"),
)


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_bad_row_is_named_by_its_line_and_never_shown(
    write: Write, text: str | bytes, reason: str
) -> None:
    """One clear message: file, line, what is expected; no word of the content."""
    assert reason in refusal(write(text)).reason


BAD_TOML = (
    (f'endpoint = "https://192.0.2.1"\npassword = {PASSWORD}\n', "not TOML in line 2"),
    (f"{TOML}{PASSWORD} = 1\n", "1 unknown key"),
    (TOML.replace("https", "ftp"), "the endpoint is not an address"),
    ("endpoint = 1\n", "are texts"),
    ("nodes = 1\n", "nodes is no table"),
    (f'nodes = {{n = "x"}}\nbmcs = {{"{PASSWORD}" = 1}}\n', "BMC 1 of [bmcs] is no table"),
    (f'nodes = {{n = "x"}}\n[bmcs."{PASSWORD}"]\nendpoint = "x"\n', "BMC 1 of [bmcs]: the endp"),
    (
        f'nodes = {{"{PASSWORD}" = "x"}}\n[bmcs.b]\nendpoint = "https://h"\n',
        "node 1 of [nodes] ref",
    ),
    ("endpoint = " + "9" * 5000 + "\n", "not TOML"),
)


@pytest.mark.parametrize(("text", "reason"), BAD_TOML)
def test_bad_toml_is_named_by_its_line_and_never_shown(
    write: Write, text: str, reason: str
) -> None:
    """Messages of the parser may repeat what stands there; ours do not."""
    assert reason in refusal(write(text, "bmc.toml")).reason


def test_a_node_without_a_bmc_is_told_and_how_many_have_one(write: Write) -> None:
    """No name of the file's: with two columns swapped they are the passwords."""
    error = refusal(write(f"{PASSWORD},reader,node-a,https://192.0.2.1\n{CSV}"), "node-x")

    assert "has no BMC for this node, 'node-x'" in error.reason
    assert error.remedy.endswith("set [redfish] node to one of the names in it (there: 3)")


def test_a_path_that_cannot_be_one_is_told() -> None:
    """TOML may write a NUL in a setting."""
    error = refusal("/etc/a\0b")

    assert "'/etc/a\\x00b' is no path" in error.reason


@pytest.mark.parametrize("endpoint", ["https://h", "https://h/", "https://h:8443/redfish/v1/"])
def test_an_endpoint_is_host_and_port(endpoint: str) -> None:
    """What BMCs print as their own address is understood."""
    assert bmc_endpoint_problem(endpoint) == ""


def parse_mapping(text: str) -> dict[str, object]:
    """Return what the few lines of YAML in the cases say: mappings, two spaces a level."""
    document: dict[str, object] = {}
    levels = [document]
    for line in text.splitlines():
        key, _, value = line.strip().partition(":")
        del levels[1 + (len(line) - len(line.lstrip())) // 2 :]
        value = value.strip()
        if value and value != "{}":
            levels[-1][key] = value
        else:
            child: dict[str, object] = {}
            levels[-1][key] = child
            levels.append(child)
    return document


def test_files_of_nodes_and_bmcs_are_judged_as_keplers(write: Write, cases_dir: Path) -> None:
    """Its YAML, as TOML: the same files are good, and the same are refused for the same reason."""
    wording = {"node2 references non-existent BMC": "references a non-existent BMC"}
    rows = json.loads((cases_dir / "bmc_config.json").read_text())["cases"]
    assert rows
    for row in rows:
        document = parse_mapping(row["yaml"])
        path = write(tomli_w.dumps(document), "bmc.toml")
        expected = row["error_contains"]
        if expected is None:
            assert read(path, "node1").endpoint == "https://192.168.1.100"
        else:
            assert wording.get(expected, expected) in refusal(path).reason
