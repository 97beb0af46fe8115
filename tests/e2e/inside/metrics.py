"""Checks of the metrics: TLS and passwords, a real Prometheus, its rules, the dashboard."""

import base64
import json
import re
import secrets
import shutil
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import requests

from tests.e2e.inside.access import EXAMPLES
from tests.e2e.inside.hardware import hardware
from tests.e2e.inside.machine import (
    ensure_running,
    journal,
    main_pid,
    messages,
    restart,
    run,
    set_drop_in,
    unit_property,
    wait_for_window,
    wait_until,
)
from tests.e2e.inside.scene import Scene, describe
from tests.e2e.steps import SkippedError, require
from tests.sim.kubelet import issue, make_ca

SHARE: Final = Path("/usr/share/tychod")
SETTINGS: Final = Path("/etc/tychod/conf.d/60-metrics.toml")
USERS: Final = Path("/etc/tychod/metrics.users")
KEY: Final = Path("/etc/tychod/metrics.key")
CERTIFICATE: Final = Path("/etc/tychod/metrics.crt")
USER: Final = "scraper"
CONFIG: Final = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{place}/rules.yml]
scrape_configs:
  - job_name: tychod
    scheme: https
    honor_labels: true
    basic_auth: {{username: {user}, password_file: {place}/password}}
    tls_config: {{ca_file: {place}/ca.crt, server_name: localhost}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
VARIABLES: Final = {
    "$instance": ".*", "$namespace": ".*", "$top": "10",
    "$__rate_interval": "1m", "$__range": "1m",
}  # fmt: skip
LACKING: Final = {
    r"tycho_vm_view_": "no virtual machine is in a pod",
    r"tycho_source_(errors|late)_total.*> 0": "no reading failed or came late",
}
"""Queries of the dashboard that may be without a result here, and why."""


class Served(NamedTuple):
    """The endpoint and the Prometheus that scrapes it."""

    port: int
    password: str
    ca: Path  # whose certificate the endpoint's is signed by
    prometheus: int  # its port


def off_as_delivered(_: Scene) -> str:
    """Nothing listens until it is told to; tychoctl metrics prints what a scrape would get."""
    ensure_running()
    wait_for_window()
    listening = run("ss", "--tcp", "--listening", "--numeric", "--processes").stdout
    mine = [line for line in listening.splitlines() if f"pid={main_pid()}," in line]
    require(not mine, f"the daemon listens: {mine}")
    text = run("tychoctl", "metrics").stdout
    require("\ntycho_node_joules_total{" in text, text[:500])
    return f"{len(text.splitlines())} lines by tychoctl; {lint(text)}"


def lint(text: str) -> str:
    """StepError unless promtool is content with a scrape's text."""
    if not shutil.which("promtool"):
        return "promtool: SKIPPED, it is not on this machine"
    path = Path("/run") / f"scrape-{secrets.token_hex(4)}"
    path.write_text(text, encoding="utf-8")
    try:
        done = run("sh", "-c", f"promtool check metrics <{path}", code=None)
    finally:
        path.unlink()
    require(done.returncode == 0, f"promtool: {(done.stdout + done.stderr)[:2000]}")
    return "promtool is content"


def served_by_credentials(scene: Scene) -> str:
    """TLS and a password by the example's drop-in: who has both gets metrics, nobody else does."""
    served = _serve(scene)
    status, text = ask(served, "/metrics")
    require(status == 200, f"with the password: {status} {text[:300]}")
    for what, user, password in (
        ("no password", "", ""),
        ("a wrong password", USER, "wrong"),
        ("another user", "root", served.password),
    ):
        status, body = ask(served, "/metrics", user, password)
        require(status == 401, f"{what}: {status}")
        require("tycho_" not in body, f"{what}: {body[:300]}")
    _require_tls(served)
    for path in (USERS, KEY):
        require(describe(path) == "0600 root:root", f"{path} is {describe(path)}")
    secret = base64.b64encode(f"{USER}:{served.password}".encode()).decode()
    hashed = USERS.read_text(encoding="utf-8").partition(":")[2].strip()
    told = messages(journal()) + run("tychoctl", "config", "-o", "json").stdout + text
    for word in (served.password, secret, hashed):
        require(word not in told, "a secret is in the log, the settings or the metrics")
    ready = [ask(served, path)[0] for path in ("/healthz", "/readyz")]
    require(ready == [200, 200], f"/healthz and /readyz: {ready}")
    return lint(text)


def _require_tls(served: Served) -> None:
    """StepError if plain HTTP, or a client that trusts others only, gets an answer."""
    login = (USER, served.password)
    for url in (f"http://127.0.0.1:{served.port}", f"https://localhost:{served.port}"):
        try:
            body = requests.get(f"{url}/metrics", auth=login, timeout=10).text
        except requests.RequestException:
            continue
        require("tycho_" not in body, f"metrics for a client that trusts nobody: {url}")


def _serve(scene: Scene) -> Served:
    """Enable the endpoint as the examples say, on a node with a BMC, a GPU and a microVM."""
    if scene.served is not None:
        return scene.served
    _start_machine(scene)
    password, port = secrets.token_urlsafe(24), free_port()
    bench = hardware(scene, secrets.token_urlsafe(24))
    bench.__enter__()
    scene.undo.append(partial(bench.__exit__, None, None, None))
    set_drop_in("redfish", (EXAMPLES / "redfish.conf").read_text(encoding="utf-8"))
    scene.undo.append(partial(set_drop_in, "redfish", None))
    ca = _write_credentials(scene, password)
    SETTINGS.write_text(
        f'[metrics]\nenabled = true\nlisten = "0.0.0.0:{port}"\ntls_cert_file = "{CERTIFICATE}"\n',
        encoding="ascii",
    )
    example = (EXAMPLES / "metrics.conf").read_text(encoding="utf-8")
    for path in (SETTINGS, USERS, KEY, CERTIFICATE):
        scene.undo.append(partial(path.unlink, missing_ok=True))
    set_drop_in("metrics", example)
    scene.undo.append(partial(set_drop_in, "metrics", None))
    restart()
    served = Served(port, password, ca, free_port())
    wait_until("metrics", lambda: _ready(served), 60, pause_s=1)
    scene.served = served
    return served


def _start_machine(scene: Scene) -> None:
    """Start what looks and works like a microVM, in a service of its own."""
    unit, program = f"{scene.name}-vm.service", scene.directory / "programs/firecracker"
    command = f"sleep infinity | exec {program} --api-sock /run/{scene.name}.sock --id {scene.name}"
    busy = ("--setenv=SIM_VMM_VCPUS=1", "--setenv=SIM_VMM_BUSY=0.05")
    run("systemd-run", "--quiet", "--collect", f"--unit={unit}", *busy, "sh", "-c", command)
    scene.undo.append(partial(run, "systemctl", "stop", unit, code=None))


def _ready(served: Served) -> bool:
    try:
        return ask(served, "/readyz")[0] == 200
    except OSError:
        return False


def _write_credentials(scene: Scene, password: str) -> Path:
    """Write key, certificate and users; return the CA's certificate."""
    ca = make_ca(scene.directory, "metrics-ca")
    pair = issue(scene.directory, ca, "localhost")
    for target, source, mode in ((KEY, pair.key, "0600"), (CERTIFICATE, pair.cert, "0644")):
        run("install", "-m", mode, str(source), str(target))
    secret = scene.directory / "password"
    secret.touch(mode=0o600)
    secret.write_text(password, encoding="ascii")
    hashed = run("sh", "-c", f"tychod --hash-password <{secret}").stdout.strip().splitlines()[-1]
    require(password not in hashed, "the hash has the password in it")
    USERS.touch(mode=0o600)
    USERS.write_text(f"{USER}:{hashed}\n", encoding="ascii")
    return ca.cert


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(
    served: Served, path: str, user: str = USER, password: str | None = None
) -> tuple[int, str]:
    """Return status and body of what the endpoint answers."""
    login = (user, served.password if password is None else password) if user else None
    url = f"https://localhost:{served.port}{path}"
    reply = requests.get(url, auth=login, verify=str(served.ca), timeout=10)
    return reply.status_code, reply.text


def prometheus_scrapes(scene: Scene) -> str:
    """A real Prometheus scrapes the packaged daemon: its target is healthy."""
    served = _prometheus(scene)
    target = wait_until("a healthy target", lambda: _target(served), 30, pause_s=0.5)
    wait_until("values", lambda: query(served, "tycho_windows_total"), 15, pause_s=0.5)
    version = query(served, "tycho_build_info")[0]["metric"]["version"]
    series = len(query(served, '{__name__=~"tycho_.*"}'))
    return f"{version}, {series} series, scraped in {target['lastScrapeDuration'] * 1e3:.0f} ms"


def _target(served: Served) -> dict[str, Any] | None:
    targets = api(served, "targets")["activeTargets"]
    if not targets or targets[0]["health"] == "unknown":
        return None
    target = targets[0]
    require(target["health"] == "up", f"the target: {target['lastError']}")
    require(not target["lastError"], f"the target: {target['lastError']}")
    return dict(target)


def _prometheus(scene: Scene) -> Served:
    """Start Prometheus once, with the packaged rules; SkippedError where there is none."""
    if not shutil.which("prometheus"):
        raise SkippedError("there is no Prometheus on this machine: apt-get install prometheus")
    served = _serve(scene)
    unit = f"{scene.name}-prometheus.service"
    if unit_property("ActiveState", unit) == "active":
        return served
    place = Path("/run") / f"{scene.name}-prometheus"
    place.mkdir(mode=0o700)
    scene.undo.append(partial(shutil.rmtree, place, ignore_errors=True))
    scene.undo.append(partial(run, "systemctl", "stop", unit, code=None))
    rules = (SHARE / "prometheus/tychod.rules.yml").read_text(encoding="utf-8")
    quick = re.sub(r"(?m)^(    interval:) \S+$", r"\1 1s", rules)  # else some wait 5 minutes
    (place / "rules.yml").write_text(quick, encoding="utf-8")
    (place / "password").write_text(served.password, encoding="ascii")
    shutil.copy(served.ca, place / "ca.crt")
    config = CONFIG.format(place=place, user=USER, port=served.port)
    (place / "prometheus.yml").write_text(config, encoding="utf-8")
    listen = f"--web.listen-address=127.0.0.1:{served.prometheus}"
    argv = (f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data", listen)
    run("systemd-run", "--quiet", "--collect", f"--unit={unit}", "prometheus", *argv)
    wait_until("Prometheus", lambda: _answers(served), 30, pause_s=0.5)
    return served


def _answers(served: Served) -> bool:
    try:
        url = f"http://127.0.0.1:{served.prometheus}/-/ready"
        return requests.get(url, timeout=10).status_code == 200
    except OSError:
        return False


def api(served: Served, what: str, **asked: str) -> Any:
    """Return the data of an answer of Prometheus; StepError with its words where it refuses."""
    url = f"http://127.0.0.1:{served.prometheus}/api/v1/{what}"
    answer = requests.get(url, params=asked, timeout=10).json()
    require(answer["status"] == "success", f"{asked}: {answer.get('error')}")
    return answer["data"]


def query(served: Served, text: str) -> list[dict[str, Any]]:
    """Return the result of an expression now."""
    return list(api(served, "query", query=text)["result"])


def rules_evaluate(scene: Scene) -> str:
    """The packaged rules load, every one is evaluated, none with an error; none fires that lies."""
    served = _prometheus(scene)

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in api(served, "rules")["groups"] for rule in group["rules"]]
        bad = [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"]
        require(not bad, f"rules with errors: {bad}")
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = wait_until("all rules evaluated", evaluated, 30, pause_s=1)
    firing = sorted({r["name"] for r in rules if r.get("state") == "firing"})
    require("TychodConservationViolated" not in firing, "energy is not conserved")
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    empty = wait_until("recordings", lambda: _recorded(served, recorded), 30, pause_s=1)
    return f"{len(rules)} rules, firing: {firing or 'none'}, {empty}"


def _recorded(served: Served, names: list[str]) -> str:
    """Return how many recordings have values, once all have."""
    missing = [name for name in names if not query(served, name)]
    return "" if missing else f"{len(names)} recordings have values"


def dashboard_resolves(scene: Scene) -> str:
    """Every query of the packaged dashboard has a result, but for what this machine lacks."""
    served = _prometheus(scene)
    board = json.loads((SHARE / "grafana/tychod.json").read_text(encoding="utf-8"))
    asked = [(p["title"], t["expr"]) for p in board["panels"] for t in p.get("targets", ())]
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            text = re.sub(
                r"^label_values\((.*), (\w+)\)$", r"count by (\2) (\1)", one["definition"]
            )
            asked.append((f"${one['name']}", text))

    end_s = time.monotonic() + 45  # rates need two scrapes with different windows
    while missing := _unanswered(served, asked):
        require(time.monotonic() < end_s, f"no result: {missing}")
        time.sleep(2)
    empty = [text for _, text in asked if not query(served, filled(text))]
    reasons = sorted({why_empty(text) for text in empty})
    return f"{len(asked)} queries, {len(empty)} without a result: {', '.join(reasons) or 'none'}"


def _unanswered(served: Served, asked: list[tuple[str, str]]) -> list[str]:
    """Return what has no result and no reason for it."""
    return [
        f"{title}: {text}"
        for title, text in asked
        if not why_empty(text) and not query(served, filled(text))
    ]


def why_empty(text: str) -> str:
    """Return why a query may have no result here; "" if it must have one."""
    return next((why for pattern, why in LACKING.items() if re.search(pattern, text)), "")


def filled(text: str) -> str:
    """Put values for the dashboard's variables into a query."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return text


def kepler_names(scene: Scene) -> str:
    """After a reload the same endpoint has Kepler's names, which Prometheus scrapes, too."""
    served = _prometheus(scene)
    pid, text = main_pid(), SETTINGS.read_text(encoding="ascii")
    SETTINGS.write_text(f'{text}names = "kepler"\n', encoding="ascii")
    try:
        run("systemctl", "reload", "tychod")
        wanted = ("kepler_node_cpu_joules_total", "kepler_pod_cpu_watts", "kepler_node_gpu_watts")
        for name in wanted:
            wait_until(f"{name} in Prometheus", partial(query, served, name), 20, pause_s=0.5)
        require(_target(served), "the target is no longer healthy")
        body = ask(served, "/metrics")[1]
        own = set(re.findall(r"^(tycho_\w+)", body, re.MULTILINE))
        require(all(name.startswith("tycho_exporter_") for name in own), f"own names: {own}")
        note = lint(body)
        pods = {row["metric"]["pod_name"] for row in query(served, "kepler_pod_cpu_joules_total")}
        missing = {pod.name for pod in scene.pods} - pods
        require(not missing, f"no series of {missing}; there are {sorted(pods)}")
    finally:
        SETTINGS.write_text(text, encoding="ascii")
        run("systemctl", "reload", "tychod")
    require(main_pid() == pid, "a reload started a new process")
    wait_until("own names again", lambda: "\ntycho_node_" in ask(served, "/metrics")[1], 15)
    return f"{body.count(chr(10))} lines; {note}"


def missing_credentials_do_not_start(scene: Scene) -> str:
    """Without the files the service does not start and systemd says which; with them it does."""
    _serve(scene)
    kept = USERS.read_text(encoding="ascii")
    USERS.unlink()
    try:
        done = run("systemctl", "restart", "tychod", code=None)
        require(done.returncode != 0, "it started without the file of its users")
        result = unit_property("ExecMainStatus")
        require(result == "243", f"exit status {result}, not 243 (CREDENTIALS)")
    finally:
        USERS.touch(mode=0o600)
        USERS.write_text(kept, encoding="ascii")
        restart()
    return "243/CREDENTIALS"
