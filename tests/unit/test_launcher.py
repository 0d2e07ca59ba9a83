import dataclasses
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serve_app.cli import environment, processes, serve
from serve_app.cli.serve import connections_for
from serve_app.config import IngressConfig

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"
PORTS = environment.Ports(metrics=9101, stats=8404, fallback=8500, ingress=30000)


def test_haproxy_is_started_by_the_program_that_corrects_its_file(tmp_path):
    haproxy = environment.write_haproxy(tmp_path)
    version = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("HAProxy version 2.8")
    (tmp_path / "haproxy.cfg").write_text("global\n")
    refused = subprocess.run(
        [haproxy, "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, check=False, timeout=20
    )
    assert (refused.returncode, refused.stderr) == (1, "tts-haproxy: no section 'defaults'\n")


def test_what_serve_starts_behind_haproxy_stays_on_this_machine(tmp_path, monkeypatch):
    seen = {}

    def run_cluster(command, directory, values):
        seen.update(values, deployed=yaml.safe_load(Path(command[-1]).read_text()))
        return 0

    monkeypatch.setattr(serve, "_run_cluster", run_cluster)
    serve.run(LOCAL, environment.free_ports().metrics, host="0.0.0.0")
    assert seen["TTS_HAPROXY_HOST"] == "0.0.0.0"
    assert seen["deployed"]["http_options"]["host"] == "127.0.0.1"


def test_one_number_says_how_long_a_leaving_ingress_may_speak(tmp_path):
    ingress = IngressConfig(graceful_shutdown_timeout_s=45, max_connections_per_address=9)
    values = environment.serve_environment(tmp_path, PORTS, tmp_path / "haproxy", 4096, ingress)
    assert values["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "45"
    assert values["TTS_HAPROXY_CONNECTIONS_PER_ADDRESS"] == "9"
    longest = IngressConfig(graceful_shutdown_timeout_s=3600)
    assert longest.graceful_shutdown_timeout_s <= int(values["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])


def test_two_runs_share_no_file_no_port_and_no_token(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    one, other = (
        environment.serve_environment(
            tmp_path / name, environment.free_ports(), tmp_path / name / "haproxy", 4096, IngressConfig()
        )
        for name in "ab"
    )
    own = [name for name in one if name.endswith(("_PATH", "_LOC", "_BASE", "_FILE", "_PORT", "_TOKEN"))]
    assert len(own) == 12
    assert [name for name in own if one[name] == other[name] != "65535"] == []


@pytest.mark.parametrize(
    ("kernels", "lowest", "highest"),
    [("32768\t60999", 10_000, 32_767), ("1024 50000", 50_001, 65_535)],
)
def test_ports_are_none_that_the_kernel_hands_out(tmp_path, monkeypatch, kernels, lowest, highest):
    monkeypatch.setattr(environment, "_KERNEL_RANGE_FILE", tmp_path / "range")
    (tmp_path / "range").write_text(kernels)
    ports = dataclasses.astuple(environment.free_ports())
    assert len(set(ports)) == 4
    assert all(lowest <= port and port + 1000 <= highest for port in ports)


@pytest.mark.parametrize("kernels", ["1024 65535", "nonsense"])
def test_ports_are_found_whatever_the_kernel_hands_out(tmp_path, monkeypatch, kernels):
    monkeypatch.setattr(environment, "_KERNEL_RANGE_FILE", tmp_path / "range")
    (tmp_path / "range").write_text(kernels)
    assert len(set(dataclasses.astuple(environment.free_ports()))) == 4


def test_the_proxy_cuts_clients_that_do_not_read_and_none_that_answer_pings(tmp_path):
    values = environment.serve_environment(tmp_path, PORTS, tmp_path / "haproxy", 4096, IngressConfig())
    pinged_and_given_up_s = 20 + 20  # uvicorn's own figures
    assert pinged_and_given_up_s < int(values["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) <= 120


def test_the_port_given_overrides_the_files(tmp_path):
    port = environment.free_ports().metrics
    assert serve.read_config(LOCAL, port)["http_options"]["port"] == port


@pytest.mark.parametrize("port", [0, -1, 65_536, 99_999])
def test_a_number_that_is_not_a_port_is_refused(tmp_path, port):
    with pytest.raises(serve.StartError, match="allowed: 1 to 65535"):
        serve.read_config(LOCAL, port)
    path = tmp_path / "service.yaml"
    path.write_text(LOCAL.read_text().replace("port: 8000", f"port: '{port}'"))
    with pytest.raises(serve.StartError, match="allowed: 1 to 65535"):
        serve.read_config(path, None)


def test_a_file_without_a_host_is_served_to_this_machine_alone(tmp_path):
    document = yaml.safe_load(LOCAL.read_text())
    document["http_options"] = {"port": environment.free_ports().metrics}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    assert serve.read_config(path, None)["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("a: [", "cannot read"),
        ("[]", "must have exactly one application"),
        ("applications: []", "must have exactly one application"),
        ("applications: [{args: {engine: {slots: 0}}}]", "engine.slots"),
        ("applications: [{args: {modell: {}}}]", "modell"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_starts(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(serve.StartError, match=message):
        serve.read_config(path, None)


def test_every_descendant_ends_the_grandchildren_too():
    script = (
        "import subprocess, sys, time\n"
        "from serve_app.cli import processes\n"
        "processes.become_subreaper()\n"
        "sleeper = 'import time; time.sleep(600)'\n"
        "middle = f'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", {sleeper!r}])'\n"
        "subprocess.run([sys.executable, '-c', middle], check=True)\n"
        "subprocess.Popen([sys.executable, '-c', sleeper], start_new_session=True)\n"
        "import os\n"
        "found = processes.descendants(os.getpid())\n"
        "processes.end_descendants(5.0)\n"
        "print(*found)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_process_with_a_strange_name_is_found():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; open('/proc/self/comm', 'w').write('a) b (c'); time.sleep(60)"]
    )
    try:
        assert child.pid in processes.descendants(os.getpid())
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("content", "part"), [(None, "No such file"), ("- {name: a}", "0.sha256"), ("x" * 9, "list")])
def test_a_wrong_file_of_keys_is_refused_before_anything_starts(tmp_path, content, part):
    keys = tmp_path / "keys.yaml"
    if content is not None:
        keys.write_text(content)
    document = yaml.safe_load(LOCAL.read_text())
    document["applications"][0]["args"]["access"] = {"keys_file": str(keys)}
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(serve.StartError, match=r"access\.keys_file") as refused:
        serve.read_config(path, None)
    assert part in str(refused.value)
    keys.write_text("[]")
    assert serve.read_config(path, environment.free_ports().ingress)


def test_a_metrics_port_that_is_taken_is_refused_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(serve.StartError, match=f"{port}.*--metrics-port"):
            serve.run(LOCAL, environment.free_ports().metrics, port)


@pytest.mark.parametrize(
    ("ends", "returned", "starts"),
    [
        ([0], 0, 1),
        ([1], 1, 1),
        ([environment.RAY_DID_NOT_START, 0], 0, 2),
        ([environment.RAY_DID_NOT_START] * 5, 75, 3),
    ],
)
def test_ray_is_started_again_when_it_did_not_come_up_and_for_no_other_reason(ends, returned, starts):
    left = iter(ends)
    assert serve.started(lambda: next(left)) == returned
    assert len(list(left)) == len(ends) - starts


@pytest.mark.parametrize("prefix", ["tts", "/tts/", "//", "", None, "/{x}", "/a b", 5])
def test_a_prefix_under_which_nothing_would_answer_is_refused_at_once(tmp_path, prefix):
    document = yaml.safe_load(LOCAL.read_text())
    document["applications"][0]["route_prefix"] = prefix
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(serve.StartError, match="route_prefix"):
        serve.read_config(path, None)


@pytest.mark.parametrize(("named", "wait_s"), [(None, 0), ({"max_replicas": 2}, 0), ({"startup_wait_s": 60}, 60)])
def test_what_is_missing_is_waited_for_where_the_file_says_so(tmp_path, named, wait_s):
    document = yaml.safe_load(LOCAL.read_text())
    document["applications"][0]["args"] = {} if named is None else {"generator": named}
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(document))
    read = serve.read_config(path, environment.free_ports().ingress)
    assert read["applications"][0]["args"]["generator"] == {**(named or {}), "startup_wait_s": wait_s}


@pytest.mark.parametrize("files", [512, 1024, 4096, 8392, 10_000, 20_000, 1_048_576])
def test_haproxy_may_open_what_its_connections_need(files):
    connections = connections_for(files)
    assert 100 <= connections <= 4096
    assert 2 * connections + 2 * (connections // 4) + 100 <= files  # with splicing, and its own sockets


def test_an_unlimited_number_of_files_gives_the_most_connections():
    assert connections_for(resource.RLIM_INFINITY) == connections_for(1 << 20) == 4096
