"""The packages and units: both packages hold the same, and only the loader may touch BPF."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTROL = (ROOT / "packaging/deb/control").read_text()
SPEC = (ROOT / "packaging/rpm/tychod.spec").read_text()
INSTALL = (ROOT / "packaging/deb/tychod.install").read_text()
RULES = (ROOT / "packaging/deb/rules").read_text()
UNITS = sorted((ROOT / "systemd").glob("*.service"))
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
BPF_CAPABILITIES = ["CAP_BPF", "CAP_PERFMON"]


def read_unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit file, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


# Not in the distributions: the packages bring it along (packaging/vendor.txt).
VENDORED = tuple(
    line.partition("==")[0]
    for line in (ROOT / "packaging" / "vendor.txt").read_text().splitlines()
    if "==" in line
)


@pytest.mark.parametrize("requirement", [x for x in DEPENDENCIES if not x.startswith(VENDORED)])
def test_both_packages_depend_on_what_the_project_needs(requirement: str) -> None:
    """Each requirement of pyproject.toml is one of the .deb and of the .rpm, with its bound."""
    name, bound = requirement.split(">=")
    deb = re.search(rf"^ python3-{name} \(>= (?:\d+:)?([0-9.]+)\),$", CONTROL, re.MULTILINE)
    one = rf"python3-{name} >= ([0-9.]+)"
    rpm = re.search(rf"^Requires: (?:{one}|\({one} or .*\))$", SPEC, re.MULTILINE)

    assert deb is not None
    assert rpm is not None
    assert deb[1].startswith(bound)
    assert (rpm[1] or rpm[2]) == bound


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_both_packages_hold_every_service(path: Path) -> None:
    """A unit that is added to systemd/ reaches both packages."""
    assert f"cp systemd/{path.name} " in RULES
    assert f"/usr/lib/systemd/system/{path.name}\n" in SPEC


@pytest.mark.parametrize(
    "path", sorted((ROOT / "packaging/launchers").iterdir()), ids=lambda p: p.name
)
def test_both_packages_hold_every_program(path: Path) -> None:
    """A program that is added to packaging/launchers reaches both packages, at one place."""
    found = re.search(rf"^packaging/launchers/{path.name} (usr/s?bin)$", INSTALL, re.MULTILINE)

    assert found is not None
    assert f"\n/{found[1]}/{path.name}\n" in SPEC


@pytest.mark.parametrize(
    "path", sorted((ROOT / "packaging/man").iterdir()), ids=lambda path: path.name
)
def test_both_packages_hold_every_page(path: Path) -> None:
    """A manual page reaches both packages, in the directory of its section."""
    pages = (ROOT / "packaging/deb/tychod.manpages").read_text().split()

    assert pages == ["packaging/man/*"]
    assert f"\n/usr/share/man/man{path.suffix[1:]}/{path.name}\n" in SPEC


@pytest.mark.parametrize("name", ["etc/grafana/*.json", "etc/prometheus/*.yml"])
def test_both_packages_hold_what_is_ready_made(name: str) -> None:
    """Dashboards and rules lie at one place, outside of the documentation that images leave out."""
    place = f"usr/share/tychod/{Path(name).parent.name}"

    assert f"\n{name} {place}\n" in INSTALL
    assert f"-t %{{buildroot}}/{place} {name}\n" in SPEC


def test_both_packages_hold_completion() -> None:
    """Scripts for bash and zsh lie where the shells of either family of distributions look."""
    for text, bash, zsh in (
        (INSTALL + RULES, "debian/completion/tychoctl usr/share", "vendor-completions"),
        (SPEC, "/usr/share/bash-completion/completions/tychoctl\n", "site-functions/_tychoctl\n"),
    ):
        assert "packaging/completion/tychoctl.bash" in text
        assert bash in text
        assert zsh in text


@pytest.mark.parametrize("package", [RULES, SPEC], ids=["deb", "rpm"])
def test_a_package_without_the_kernel_programs_cannot_be_built(package: str) -> None:
    """Both build the object, and stop when it is not there."""
    assert re.search(r"(make|\$\(MAKE\)).* bpf$", package, re.MULTILINE)
    assert re.search(r"test -s \S*tychod/kernel/bpf/tychod\.bpf\.o", package)


def test_only_the_loader_may_attach() -> None:
    """CAP_BPF and CAP_PERFMON are the loader's, and nothing else is; the daemon has neither."""
    loader, daemon = read_unit("tychod-bpf.service"), read_unit("tychod.service")

    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert loader[key] == [" ".join(BPF_CAPABILITIES)]
        assert not set(BPF_CAPABILITIES) & set(" ".join(daemon[key]).split())


def test_the_daemon_runs_without_the_loader() -> None:
    """The daemon wants the loader and waits for it, but does not require it."""
    daemon = read_unit("tychod.service")

    assert "tychod-bpf.service" in " ".join(daemon["Wants"])
    assert "tychod-bpf.service" in " ".join(daemon["After"])
    assert "tychod-bpf.service" not in " ".join(daemon.get("Requires", []))


def test_the_call_that_opens_pins_is_allowed_last() -> None:
    """@privileged holds bpf, so the line that allows it has to come after the one that takes it."""
    for name in ("tychod.service", "tychod-bpf.service"):
        filters = read_unit(name)["SystemCallFilter"]
        taken = next(i for i, value in enumerate(filters) if value.startswith("~"))

        assert any("bpf" in value.split() for value in filters[taken + 1 :])


@pytest.mark.parametrize("name", ["packaging/deb/tychod.postinst", "packaging/rpm/tychod.spec"])
def test_an_upgrade_reloads_the_loader_and_never_restarts_it(name: str) -> None:
    """A restart would detach and lose what ran meanwhile; a reload keeps maps of one layout."""
    text = (ROOT / name).read_text()

    assert "reload tychod-bpf.service" in text
    assert not re.search(r"restart\S* \S*tychod-bpf", text)
