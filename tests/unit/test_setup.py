"""What the set-up of a development machine leaves behind."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
set -euo pipefail
eval "$(sed -n '/^apt_install()/,/^[)}]$/p; /^start_no_services()/,/^[)}]$/p' packaging/setup.sh)"
env() { [ -x "$POLICY" ] && echo "no services"; }
logged() { shift; "$@"; }
trap 'echo mine' EXIT
cd "$(dirname "$POLICY")" && mkdir .state
apt_install prometheus-tools
[ -e "$POLICY" ] || echo "services again"
"""


def test_services_may_start_again_after_the_installation(tmp_path: Path) -> None:
    """What forbids them goes with it, and the caller's own trap is not replaced."""
    done = subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=ROOT,
        env={"POLICY": str(tmp_path / "policy-rc.d"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    told = done.stdout.splitlines()
    assert (done.returncode, told[1:]) == (0, ["no services", "services again", "mine"]), done
