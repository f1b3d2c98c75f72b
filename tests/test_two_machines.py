"""Two machines that share a folder write the bytes of one process; one dies, the other says so, and both go on."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from test_candidates import digests

from r2anker_hf.processes import _check_interface, _check_launch
from r2anker_hf.records import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
TOY = Path(__file__).with_name("machines_toy.py")
CONFIG = REPOSITORY / "recipes" / "accelerate_configs" / "multi_node.yaml"
OF_A_RUN = ("config.yaml", "provenance.json")


class Machines:
    """Two network namespaces with one cable between them: as far apart as two machines are for torch.distributed."""

    def __init__(self):
        self.names = [f"r2anker{os.getpid()}{side}" for side in "ab"]
        self.interfaces = [f"r2a{os.getpid() % 10**6}{side}" for side in "ab"]

    def ip(self, *words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def connect(self):
        for name in self.names:
            self.ip("netns", "add", name)
        (one, other), (left, right) = self.names, self.interfaces
        self.ip("link", "add", left, "netns", one, "type", "veth", "peer", "name", right, "netns", other)
        for number, (name, interface) in enumerate(zip(self.names, self.interfaces, strict=True), 1):
            self.ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", interface)
            for device in ("lo", interface):
                self.ip("-n", name, "link", "set", device, "up")

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)

    def launch(self, *arguments, **environment):
        """Start the toy on both; what `accelerate launch` is told is what multi_node.yaml asks for."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | environment
        started = []
        for rank, (name, interface) in enumerate(zip(self.names, self.interfaces, strict=True)):
            options = ["--config_file", CONFIG, "--num_processes", 2, "--machine_rank", rank]
            options += ["--main_process_ip", "10.77.0.1"]
            command = ["ip", "netns", "exec", name, "accelerate", "launch", "--quiet", *options, TOY, *arguments]
            own = {"GLOO_SOCKET_IFNAME": interface} | environment
            pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen([*map(str, command)], env=own, **pipes))
        return started


@pytest.fixture(scope="module")
def machines():
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    made = Machines()
    try:
        made.connect()
        yield made
    except OSError as error:
        pytest.skip(f"needs network namespaces: {error}")
    finally:
        made.remove()


def endings(started, seconds=240):
    """Exit code and errors of each machine."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors


def lines(errors):
    return [line for line in errors.splitlines() if line.startswith("error: ")]


def test_a_machine_that_others_could_not_reach_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.1.1")
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "ib0")])
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    told = r"node7 resolves to 127.0.1.1, .* set GLOO_SOCKET_IFNAME to the interface .*; choices: eth0, ib0$"
    for here, everywhere, refused in ((2, 2, False), (1, 2, True), (4, 8, True)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
        monkeypatch.setenv("WORLD_SIZE", str(everywhere))
        with pytest.raises(InputError, match=told) if refused else nullcontext():
            _check_interface()
    monkeypatch.setattr("socket.gethostbyname", lambda name: "10.0.0.7")
    _check_interface()
    monkeypatch.setattr("socket.gethostbyname", lambda name: "127.0.1.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    _check_interface()


def test_a_process_that_was_not_told_of_the_others_does_not_do_all_the_work(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    _check_launch()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    _check_launch()
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")  # accelerate gives it where there are others
    with pytest.raises(InputError, match="needs MPI .*: give --multi_gpu in its place"):
        _check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    _check_launch()


@pytest.mark.slow
def test_two_machines_write_the_bytes_of_one_process_though_each_dies_once(machines, finished, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    one = subprocess.Popen(
        [sys.executable, str(TOY), str(finished), str(alone)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    codes, errors = endings([one])
    assert codes == [0], errors[0][-3000:]
    for dead, (stage, folder) in {1: ("teach", "taught"), 0: ("rerank", "reranked")}.items():
        started = machines.launch(finished, together, stage, dead, 1)
        assert started[dead].wait(240) != 0
        died = time.monotonic()
        codes, errors = endings(started, 60)
        assert time.monotonic() - died < 60 and codes[1 - dead] not in (0, None)
        (line,) = lines(errors[1 - dead])
        assert re.match(r"error: another process of this launch has ended, .*; give the same command again", line)
        assert not (together / folder).exists() and (together / f".{folder}.partial").exists()
    codes, errors = endings(machines.launch(finished, together))
    assert codes == [0, 0], "\n".join(errors)[-3000:]
    assert digests(together, OF_A_RUN) == digests(alone, OF_A_RUN)
    assert {path.name for path in together.iterdir()} == {"bm25", "dense", "negatives", "taught", "reranked"}
