"""Protects the quick tests: files that exist, counted by what they cost a CPU, and a run fails when it is too much."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from costs import QUICK, QUICK_SECONDS, Costs


def report(file, seconds):
    return SimpleNamespace(nodeid=f"tests/{file}.py::test_x[a::b]", cpu_seconds=seconds)


def ended(*reports, **attributes):
    """(exit status, lines printed) of a run with these reports, of which no test failed."""
    costs, session, lines = Costs(SimpleNamespace(**attributes)), SimpleNamespace(exitstatus=0), []
    for one in reports:
        costs.pytest_runtest_logreport(one)
    costs.pytest_sessionfinish(session)
    costs.pytest_terminal_summary(SimpleNamespace(write_line=lambda line, **style: lines.append(line)))
    return session.exitstatus, lines


def test_the_quick_files_exist():
    assert QUICK <= {path.stem for path in Path(__file__).parent.glob("test_*.py")}


def test_quick_tests_that_cost_too_much_fail_the_run():
    first, second = sorted(QUICK)[:2]
    within = [report(first, QUICK_SECONDS - 1), report(second, 1.0)]
    assert ended(*within, report("test_recipes", 900.0)) == (
        0,
        [f"quick tests cost {QUICK_SECONDS}.0 of {QUICK_SECONDS} CPU seconds"],
    )
    status, lines = ended(*within, report(second, 0.5))
    assert status == pytest.ExitCode.TESTS_FAILED
    assert lines[1].endswith(f"take files out of QUICK: {first} {QUICK_SECONDS - 1}.0, {second} 1.5")
    assert ended(*within, report(second, 0.5), workerinput={})[0] == 0  # the main process says it


def test_a_run_without_quick_files_says_nothing():
    assert ended(report("test_recipes", 900.0)) == (0, [])


def test_a_report_carries_the_seconds_of_its_phase():
    costs = Costs(SimpleNamespace(), clock=iter([0.0, 1.0, 1.5, 4.0]).__next__)
    costs.pytest_collection_finish()
    for expected in (0.5, 2.5):
        phase = costs.pytest_runtest_makereport()
        next(phase)
        with pytest.raises(StopIteration) as done:
            phase.send(SimpleNamespace())
        assert done.value.value.cpu_seconds == expected
