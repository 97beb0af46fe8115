"""The IPMI collector with a stub of the kernel's driver behind the real system calls.

Each test is one process with the stub preloaded: it asks once for each line of answers and prints
what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "tests" / "sim" / "ipmi_stub.c"
HEADER: Final = Path("/usr/include/linux/ipmi.h")
DEVICE: Final = "/dev/ipmi-stub"

TALK: Final = """
import json, sys
from tests.fixtures.hosts.trees import SECOND, SetClock
from tychod.collectors.base import Unavailable
from tychod.collectors import ipmi
from tychod.config import Config, Ipmi
from tychod.hostfs import Host

questions = int(sys.argv[2])
config = Config(ipmi=Ipmi(device=sys.argv[1]))
host, clock, told = Host(config.host), SetClock(), []
found = ipmi.probe(host, config, clock)
if isinstance(found, Unavailable):
    told.append({"reason": found.reason, "remedy": found.remedy, "absent": found.absent})
else:
    told.append({"notes": found.notes})
    found.collector.close()
    collector = ipmi.Ipmi(host, sys.argv[1], clock, timeout_s=0.05)
    for _ in range(questions):
        clock.t_ns += 60 * SECOND
        sample = collector.read()
        told.append({"uw": sample and sample.power_uw[0], "failure": collector.failure,
                     "reasons": list(collector.zone_reasons), "problems": collector.problems})
    collector.close()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the stub of the driver as a library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not HEADER.exists():
        pytest.skip("no C compiler or no linux/ipmi.h: apt-get install gcc linux-libc-dev")
    library = tmp_path_factory.mktemp("ipmi") / "ipmi_stub.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return library


def talk(stub: Path, tmp_path: Path, *answers: str, **environment: str) -> list[dict[str, Any]]:
    """Let a process probe (the first answer is for that) and ask; return what it says."""
    script = tmp_path / "answers"
    script.write_text("".join(f"{line}\n" for line in answers))
    names = {
        **os.environ,
        "LD_PRELOAD": str(stub),
        "IPMI_STUB_DEVICE": DEVICE,
        "IPMI_STUB_ANSWERS": str(script),
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", TALK, DEVICE, str(len(answers) - 1)],
        env=names,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def test_answers_good_and_bad(stub: Path, tmp_path: Path) -> None:
    """Watts come through; events and late answers are told from the answer by their number.

    Refusals, silence, an inactive meter and impossible watts are reasons, and the next answer is
    good again.
    """
    probed, *told = talk(
        *(stub, tmp_path, "reading 310 40"),
        *("reading 312 40", "event 320", "late 999", "reading 330 40", "silent", "code C0"),
        *("reading 340 00", "reading 65535 40", "reading 0 40", "short", "EIO", "reading 350 40"),
    )
    assert "60 s" in probed["notes"][0]
    assert [step["uw"] and step["uw"] // 1_000_000 for step in told] == [
        *(312, 320, None, 330, None, None),
        *(None, None, None, None, None, 350),
    ]
    failures = [step["failure"] for step in told]
    for number, part in {
        2: "no answer within",
        4: "no answer within",
        5: "the BMC is busy (completion code 0xC0)",
        6: "does not measure",
        7: "all bits",
        8: "more than 0 W",
        9: "no power reading",
        10: "Input/output error",
    }.items():
        assert part in failures[number], (number, failures[number])
    assert [bool(step["reasons"]) for step in told] == [bool(failure) for failure in failures]
    assert "3 implausible" in told[-1]["problems"][0]


@pytest.mark.parametrize(
    ("answer", "refuse", "absent", "words"),
    [
        ("code C1", "", False, ("no DCMI", "redfish")),
        ("reading 1 40", "13", False, ("Permission denied", "controls the BMC")),
        ("reading 1 40", "6", False, ("No such device", "ipmi_devintf")),
        ("reading 1 40", "2", True, ("No such file", "ipmi_devintf")),
    ],
    ids=["no-dcmi", "not-allowed", "no-driver", "no-device"],
)
def test_unavailable_with_a_remedy(
    stub: Path, tmp_path: Path, answer: str, refuse: str, absent: bool, words: tuple[str, str]
) -> None:
    """A BMC without DCMI, and a device that is absent or not ours, each say what to do."""
    environment = {"IPMI_STUB_REFUSE": refuse} if refuse else {}
    (told,) = talk(stub, tmp_path, answer, **environment)
    assert words[0] in told["reason"]
    assert words[1] in told["remedy"]
    assert told["absent"] == absent
