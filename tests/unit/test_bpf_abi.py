"""The layout of the maps: the C header that the programs use and numpy's words for it are one."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tychod.kernel.bpf import abi

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "bpf" / "tychod.h"
CONSTANTS = {
    "TY_ABI": abi.ABI,
    "TY_BUCKET_NS": abi.BUCKET_NS,
    "TY_BUCKETS": abi.BUCKETS,
    "TY_NAME_BYTES": abi.NAME_BYTES,
    "TY_COMM_BYTES": abi.COMM_BYTES,
    "TY_COUNTERS": len(abi.COUNTERS),
    "TY_SLOT_OVERFLOW": abi.SLOT_OVERFLOW,
    "TY_SLOT_KERNEL": abi.SLOT_KERNEL,
    "TY_SLOT_FIRST": abi.SLOT_FIRST,
    "TY_SLOT_UNKNOWN": abi.SLOT_UNKNOWN,
    "TY_TASK": abi.TASK,
    "TY_SOFTIRQ": abi.SOFTIRQ,
    "TY_IRQ": abi.IRQ,
    "TY_KINDS": abi.KINDS,
    "TY_LOADER_CORE": abi.LOADER_CORE,
    "TY_LOADER_BCC": abi.LOADER_BCC,
    "TY_FLAG_PROCESSES": abi.FLAG_PROCESSES,
    "TY_FLAG_VECTORS": abi.FLAG_VECTORS,
    "TY_FLAG_COUNTER_0": abi.FLAG_COUNTERS[0],
    "TY_FLAG_COUNTER_1": abi.FLAG_COUNTERS[1],
    "TY_FLAG_COUNTER_2": abi.FLAG_COUNTERS[2],
}
PRELUDE = """
#include <stddef.h>
#include <stdio.h>
typedef unsigned int __u32;
typedef unsigned long long __u64;
#include "tychod.h"
"""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def expected() -> dict[str, int]:
    """Return every size, offset and constant as the Python side has it."""
    facts = dict(CONSTANTS)
    for name, dtype in abi.LAYOUTS.items():
        facts[f"sizeof {name}"] = dtype.itemsize
        for field, (kind, offset, *_) in (dtype.fields or {}).items():
            facts[f"{name}.{field} at"] = offset
            facts[f"{name}.{field} bytes"] = kind.itemsize
            facts[f"{name}.{field} of"] = kind.base.itemsize if kind.base.kind == "u" else 1
    return facts


def c_program() -> Iterator[str]:
    """Yield the lines of a program that prints the same facts as the compiler sees them."""
    yield PRELUDE + "int main(void) {"
    for name in CONSTANTS:
        yield f'printf("{name}=%llu\\n", (unsigned long long){name});'
    for name, dtype in abi.LAYOUTS.items():
        yield f'printf("sizeof {name}=%zu\\n", sizeof(struct {name}));'
        for field, (kind, *_) in (dtype.fields or {}).items():
            member = f"((struct {name} *)0)->{field}"
            element = f"{member}[0]" if kind.subdtype or kind.kind == "S" else member
            yield f'printf("{name}.{field} at=%zu\\n", offsetof(struct {name}, {field}));'
            yield f'printf("{name}.{field} bytes=%zu\\n", sizeof({member}));'
            yield f'printf("{name}.{field} of=%zu\\n", sizeof({element}));'
    yield "return 0; }"


@needs_gcc
def test_header_and_python_describe_the_same_maps(tmp_path: Path) -> None:
    """Every size, every offset and every constant is what the compiler makes of the header."""
    source = tmp_path / "facts.c"
    source.write_text("\n".join(c_program()))
    subprocess.run(
        ["gcc", "-Wall", "-I", HEADER.parent, source, "-o", tmp_path / "facts"], check=True
    )
    done = subprocess.run([tmp_path / "facts"], capture_output=True, text=True, check=True)

    found = {k: int(v) for k, _, v in (line.partition("=") for line in done.stdout.splitlines())}

    assert found == expected()


def test_no_structure_or_constant_of_the_header_is_left_out() -> None:
    """What is added to the header cannot be forgotten here: it is a fact of the comparison."""
    text = HEADER.read_text()
    structures = set(re.findall(r"^struct (ty_\w+) \{", text, re.MULTILINE))
    constants = set(re.findall(r"^#define (TY_\w+)", text, re.MULTILINE))
    constants |= set(re.findall(r"^\t(TY_\w+) = ", text, re.MULTILINE))

    assert structures == set(abi.LAYOUTS)
    assert constants == set(CONSTANTS)


def test_no_member_of_a_structure_is_left_out() -> None:
    """Members of Python's types follow each other without holes, up to the size of the whole."""
    for name, dtype in abi.LAYOUTS.items():
        assert sum(kind.itemsize for kind, *_ in (dtype.fields or {}).values()) == dtype.itemsize, (
            name
        )
