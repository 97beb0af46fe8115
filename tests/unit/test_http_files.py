"""Certificate, key and users of the metrics endpoint: what is wrong is told, never served."""

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.sim.kubelet import Pair, issue, make_ca
from tychod.config_results import Metrics
from tychod.runtime.http_files import (
    EndpointError,
    Files,
    files_of,
    load_context,
    load_users,
)

LINE = b"a:$scrypt$ln=14,r=8,p=1$" + b"A" * 22 + b"$" + b"B" * 43 + b"\n"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    """Return a CA and what it issued."""
    folder = tmp_path_factory.mktemp("tls")
    ca = make_ca(folder, "ca")
    return ca, issue(folder, ca, "localhost")


def files(pair: Pair, ca: str = "") -> Files:
    """Return the files of an endpoint with this certificate."""
    return Files(str(pair.cert), str(pair.key), ca, "")


def test_what_is_set_goes_before_credentials(tmp_path: Path) -> None:
    """A credential is used where no file is set; that of users only where there is one."""
    folder = str(tmp_path)
    tls = Metrics(tls_cert_file="/c")

    assert files_of(Metrics(), folder) == Files("", "", "", "")
    assert files_of(tls, folder).key == f"{folder}/metrics-key"
    assert files_of(Metrics(tls_cert_file="/c", tls_key_file="/k"), folder).key == "/k"
    assert files_of(tls, "").key == ""
    (tmp_path / "metrics-users").write_bytes(LINE)
    assert files_of(Metrics(), folder).users == f"{folder}/metrics-users"
    assert files_of(Metrics(users_file="/u"), folder).users == "/u"


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, None),
        (0o440, None),
        (0o644, "everybody may use it"),
        (0o602, "everybody may use it"),
        (0o660, "its group may change it"),
    ],
)
def test_a_secret_is_for_its_owner_and_roots_group(
    tmp_path: Path, mode: int, reason: str | None
) -> None:
    """The refusal has the command that mends it."""
    path = tmp_path / "a key"
    path.write_bytes(LINE)
    path.chmod(mode)
    if reason is None and os.getuid() == 0:
        assert list(load_users(str(path))) == [b"a"]
        return
    if reason is None and mode & 0o040:
        reason = "may read it"  # no file of root's
    if reason is None:
        assert list(load_users(str(path))) == [b"a"]
        return
    with pytest.raises(EndpointError, match=reason) as caught:
        load_users(str(path))
    assert f"chmod 0640 '{path}'" in caught.value.remedy


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_secret_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Whoever owns it can change it; a group that is not ours may not read it."""
    path = tmp_path / "users"
    path.write_bytes(LINE)
    path.chmod(0o640)
    os.chown(path, 65534, 0)
    with pytest.raises(EndpointError, match="belongs to user 65534"):
        load_users(str(path))
    os.chown(path, 0, 65534)
    with pytest.raises(EndpointError, match="group 65534 may read it"):
        load_users(str(path))


def test_files_that_are_not_there_are_named(tmp_path: Path, pairs: tuple[Pair, Pair]) -> None:
    """With the setting that names them."""
    _, pair = pairs
    nowhere = str(tmp_path / "none")
    for wrong, setting in (
        (files(pair)._replace(certificate=nowhere), "tls_cert_file"),
        (files(pair)._replace(key=nowhere), "tls_key_file"),
        (files(pair, ca=nowhere), "client_ca_file"),
    ):
        with pytest.raises(EndpointError, match=r"none: No such file") as caught:
            load_context(wrong)
        assert setting in caught.value.remedy
    with pytest.raises(EndpointError, match="no regular file"):
        load_users(str(tmp_path))
    with pytest.raises(EndpointError, match="private key is not") as caught:
        load_context(files(pair)._replace(key=""))
    assert "metrics-key" in caught.value.remedy


def test_a_key_of_another_certificate_is_refused(pairs: tuple[Pair, Pair]) -> None:
    """As is text that is no certificate, and a CA file without one."""
    ca, pair = pairs
    with pytest.raises(EndpointError, match="not the key of"):
        load_context(Files(str(pair.cert), str(ca.key), "", ""))
    with pytest.raises(EndpointError, match="cannot be used"):
        load_context(Files(str(pair.key), str(pair.key), "", ""))
    with pytest.raises(EndpointError, match="no certificate is in it"):
        load_context(files(pair, ca=str(pair.key)))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    tmp_path: Path, pairs: tuple[Pair, Pair]
) -> None:
    """The library would ask for its password on a terminal."""
    _, pair = pairs
    key = tmp_path / "key"
    command = ["openssl", "ec", "-in", str(pair.key), "-aes128", "-passout", "pass:x"]
    command += ["-out", str(key)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    key.chmod(0o600)
    with pytest.raises(EndpointError, match="encrypted"):
        load_context(files(pair)._replace(key=str(key)))


def test_old_versions_of_tls_are_not_spoken(pairs: tuple[Pair, Pair]) -> None:
    """TLS 1.2 at least; clients' certificates only where a CA is set."""
    ca, pair = pairs
    context = load_context(files(pair))
    asking = load_context(files(pair, ca=str(ca.cert)))

    assert context
    assert asking
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    assert asking.verify_mode == ssl.CERT_REQUIRED
    assert load_context(Files("", "", "", "")) is None


def test_a_replaced_file_is_seen(tmp_path: Path, pairs: tuple[Pair, Pair]) -> None:
    """A renewed certificate has another inode, length or time; one that vanished is seen, too."""
    _, pair = pairs
    copy = Pair(tmp_path / "c", tmp_path / "k")
    shutil.copy(pair.cert, copy.cert)
    first = files(copy).seen("certificate")
    assert files(copy).seen("certificate") == first
    copy.cert.unlink()
    gone = files(copy).seen("certificate")
    shutil.copy(pair.cert, copy.cert)

    assert len({first, gone, files(copy).seen("certificate")}) == 3


def test_a_file_whose_rights_change_is_seen(tmp_path: Path) -> None:
    """One that is opened up later is looked at again, and refused, though its content stays."""
    path = tmp_path / "users"
    path.write_bytes(LINE)
    path.chmod(0o600)
    found = Files("", "", "", str(path))
    first = found.seen("users")
    load_users(str(path))
    assert found.seen("users") == first
    path.chmod(0o644)

    assert found.seen("users") != first
    with pytest.raises(EndpointError, match="everybody may use it"):
        load_users(str(path))


def test_what_is_checked_is_what_is_read(
    tmp_path: Path, pairs: tuple[Pair, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file that comes to the path after the look is not the one that is used."""
    ca, pair = pairs
    users, key = tmp_path / "users", tmp_path / "key"
    users.write_bytes(LINE)
    shutil.copy(pair.key, key)
    real = os.fstat

    def replacing(fd: int) -> os.stat_result:
        found = real(fd)
        for path, data in ((users, LINE.replace(b"a:", b"intruder:")), (key, ca.key.read_bytes())):
            if os.path.samestat(found, path.stat()):
                other = path.with_suffix(".new")
                other.write_bytes(data)
                other.replace(path)
        return found

    for path in (users, key):
        path.chmod(0o600)
    with monkeypatch.context() as changed:
        changed.setattr(os, "fstat", replacing)
        assert list(load_users(str(users))) == [b"a"]
        assert load_context(Files(str(pair.cert), str(key), "", ""))
    assert b"intruder" in users.read_bytes()


def test_a_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    """Opening one would wait for ever for somebody to write."""
    path = tmp_path / "users"
    os.mkfifo(path, 0o600)
    with pytest.raises(EndpointError, match="no regular file"):
        load_users(str(path))
