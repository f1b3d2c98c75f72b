"""Protects how a recipe ends: one line, its exit code, a file with the trace; of several processes one speaks."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from r2anker_hf import endings
from r2anker_hf.config import run_recipe
from r2anker_hf.records import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SCRIPT = """
import sys, time
from dataclasses import dataclass
from r2anker_hf.config import run_recipe
from r2anker_hf.processes import processes, wait_for_all
from r2anker_hf.records import InputError

@dataclass
class Config:
    fails: str = "nobody"
    output_dir: str = "out"

def main(config: Config):
    if config.fails == "nobody":
        print("works", flush=True)
        time.sleep(60)
    wait_for_all()
    if config.fails == f"input{processes().process_index}":
        raise InputError(f"{config.fails}: bad input")
    wait_for_all()

run_recipe(main)
"""


@dataclass
class Config:
    output_dir: str


def ended(error: BaseException, output_dir: Path, capsys) -> tuple[int, str]:
    """Exit code and standard error of a recipe that raises this."""

    def main(config: Config):
        raise error

    with pytest.raises(SystemExit) as stop:
        run_recipe(main, args=["--output_dir", str(output_dir)])
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug\nin two lines"), OSError(errno.EBADF, "a bug"), KeyError("x")])
def test_a_fault_of_the_program_is_one_line_that_names_the_trace(error, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(endings.SHOW_TRACE, raising=False)
    code, printed = ended(error, tmp_path / "out", capsys)
    trace = tmp_path / "out.traceback.txt"
    assert code == 1 and printed.count("\n") == 1
    assert printed.startswith(f"error: {type(error).__name__}: ") and f"full trace is in {trace}," in printed
    assert "Traceback (most recent call last)" in trace.read_text() and "raise error" in trace.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [trace.name]


def test_without_a_parent_folder_the_trace_is_a_temporary_file(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(endings.SHOW_TRACE, raising=False)
    monkeypatch.setattr(endings.tempfile, "tempdir", str(tmp_path))
    code, printed = ended(ValueError("a bug"), tmp_path / "not" / "yet", capsys)
    (trace,) = tmp_path.iterdir()
    assert code == 1 and str(trace) in printed and "a bug" in trace.read_text()


def test_the_trace_is_shown_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv(endings.SHOW_TRACE, "1")
    for error in (ValueError("a bug"), InputError("bad input"), KeyboardInterrupt()):

        def main(config: Config, error=error):
            raise error

        with pytest.raises(type(error)):
            run_recipe(main, args=["--output_dir", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.trec, line 3:\nbad"), 2, "error: a.trec, line 3: bad\n"),
        (InputError("a\x1b[2J.trec: bad"), 2, "error: a\\x1b[2J.trec: bad\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C; give the same command again to go on\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "OUT/.."), 2, "error: OUT/..: No such file\n"),
    ],
)
def test_other_endings(error, code, line, tmp_path, capsys):
    if isinstance(error, OSError):  # the system refuses a folder above the output
        error.filename, line = str(tmp_path), line.replace("OUT/..", str(tmp_path))
    assert ended(error, tmp_path / "out", capsys) == (code, line)


READ_ERROR = "Read error [10.77.0.2]:2740: Connection reset by peer"
NCCL_ERROR = "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error"
GONE = {
    f"[/a/gloo/tcp/pair.cc:537] {READ_ERROR}. This is typically caused by bugs.": READ_ERROR,
    f"{NCCL_ERROR}\nLast error:": NCCL_ERROR,
}


@pytest.mark.parametrize("message", GONE)
@pytest.mark.parametrize("local_rank", [0, 1])
def test_where_a_process_is_gone_one_of_each_machine_says_so(message, local_rank, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(endings, "GRACE_S", 0.0)
    for name, value in {"RANK": 2 + local_rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    code, printed = ended(RuntimeError(message), tmp_path / "out", capsys)
    line = (
        "error: another process of this launch has ended, or its machine cannot be reached "
        f"({GONE[message]}); give the same command again to go on\n"
    )
    assert code == 1 and printed == ("" if local_rank else line) and not list(tmp_path.iterdir())


def test_a_fault_of_the_program_is_none_of_the_launch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(endings, "GRACE_S", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, printed = ended(RuntimeError("shapes differ"), tmp_path / "out", capsys)
    assert code == 1 and printed.startswith("error: RuntimeError: shapes differ; the full trace is in")
    monkeypatch.setenv("WORLD_SIZE", "1")
    code, printed = ended(RuntimeError(next(iter(GONE))), tmp_path / "out", capsys)
    assert printed.startswith("error: RuntimeError: [/a/gloo")


def test_the_line_is_not_glued_to_a_progress_bar(tmp_path, capsys):
    from tqdm import tqdm

    bar = tqdm(total=3, file=sys.stderr)
    bar.update()
    _, printed = ended(InputError("bad"), tmp_path / "out", capsys)
    assert printed.endswith("\nerror: bad\n")


@pytest.mark.parametrize(("rank", "printed"), [(0, "stopped by Ctrl-C"), (1, "")])
def test_of_several_processes_the_first_says_that_it_was_stopped(rank, printed, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, text = ended(KeyboardInterrupt(), tmp_path / "out", capsys)
    assert code == 130 and text.startswith(printed) and bool(text) == bool(printed)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(SCRIPT)
    return str(path)


def environment():
    without = {key: value for key, value in os.environ.items() if key != endings.SHOW_TRACE}
    return {**without, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def heed():
    """Ctrl-C is heeded, also where the tests run in the background of a shell that lets its jobs pass it over."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_is_one_line(script, tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, script], cwd=tmp_path, env=environment(), preexec_fn=heed, **pipes)
    assert started.stdout.readline() == "works\n"
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130 and errors == "stopped by Ctrl-C; give the same command again to go on\n"


@pytest.mark.parametrize("fails", ["input0", "input1"])
def test_a_launch_ends_with_one_line(fails, script, tmp_path):
    """The others wait for a process that will not come; its line stands alone before the launcher's own report."""
    started = time.monotonic()
    command = [*LAUNCH, script, "--fails", fails]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(lines) == 1 and f"{fails}: " in lines[0], done.stderr[-3000:]
    own = done.stderr[: done.stderr.index("error: ")]
    assert "Traceback" not in own and "gloo" not in done.stderr.lower()
    assert time.monotonic() - started < 250


@pytest.mark.parametrize("name, code", [("faiss", 2), ("bm25s.tokenization", 2), ("r2anker_hf.lost", 1)])
def test_a_missing_package_is_named_with_what_to_install(name, code, tmp_path, capsys):
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    given, line = ended(error, tmp_path / "out", capsys)
    assert given == code and line.count("\n") == 1
    told = f"error: {name.split('.')[0]} is not installed: pip install 'r2anker_hf[cpu]'"
    assert line.startswith(told) == (code == 2)
