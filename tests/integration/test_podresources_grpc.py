"""Pod-resources asked of a server that is not ours: grpcio, which most of the field uses."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sim.podresources import render_listing
from tychod.workloads.grpc_unary import CallError, call
from tychod.workloads.podresources import METHOD, parse_answer, read_pod_resources

if importlib.util.find_spec("grpc") is None:
    pytest.skip("grpcio is not installed: make setup installs it", allow_module_level=True)

LIMIT = 8 << 20


class Server(NamedTuple):
    """A server in a process of its own: grpcio keeps threads and descriptors for ever."""

    path: str
    answer: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return one server for all of them; what it answers is the content of a file."""
    folder = tmp_path_factory.mktemp("grpc")
    found = Server(str(folder / "s"), folder / "answer")
    found.answer.write_bytes(b"")
    command = [sys.executable, "-m", "tests.sim.podresources", "--grpcio"]
    command += ["--socket", found.path, "--file", str(found.answer)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield found
        process.communicate()


def test_answer_of_a_foreign_server_is_read(server: Server) -> None:
    """The client's preface, settings, headers and message are what gRPC is."""
    listing = {("ml", "train-0", "train"): {"nvidia.com/gpu": ("GPU-1", "GPU-2")}}
    server.answer.write_bytes(render_listing(listing))

    assert read_pod_resources(server.path) == listing


def test_empty_answer_is_no_devices(server: Server) -> None:
    """A node without pods answers a message of no bytes."""
    server.answer.write_bytes(b"")

    assert read_pod_resources(server.path) == {}


def test_large_answer_arrives_whole(server: Server) -> None:
    """6 MB go through the windows that were opened; every container is there."""
    listing = {
        ("ml", f"pod-{n}", "main"): {"vendor/x": (f"{n}-" + "d" * 200,)} for n in range(25_000)
    }
    data = render_listing(listing)
    server.answer.write_bytes(data)
    received = call(server.path, METHOD, b"", 20.0, LIMIT)

    assert len(data) > 6_000_000
    assert received == data
    assert len(parse_answer(received)) == 25_000


def test_answer_beyond_the_limit_is_refused(server: Server) -> None:
    """One byte more than allowed, from a server that keeps to the windows it was given."""
    server.answer.write_bytes(bytes(LIMIT + 1))
    with pytest.raises(CallError, match="longer than"):
        call(server.path, METHOD, b"", 20.0, LIMIT)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"])
def test_servers_refusal_is_said(server: Server, code: str) -> None:
    """An error has trailers and no message: that is the reason."""
    server.answer.write_bytes(b"!" + code.encode())
    found = read_pod_resources(server.path)

    assert "refused the call" in str(found)


def test_unknown_method_is_a_refusal(server: Server) -> None:
    """A kubelet of another interface version."""
    with pytest.raises(CallError, match="refused the call"):
        call(server.path, "/v9.Nobody/List", b"", 20.0, LIMIT)
