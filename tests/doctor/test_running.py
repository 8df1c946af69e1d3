"""The process around the checks, with stand-ins for checks that crash, hang, and end."""

import json
import sys

import pytest

from tsjax.cli.main import main
from tsjax.doctor import running
from tsjax.doctor.check import Found
from tsjax.doctor.running import examine

# Four checks, of which the second and third do what the test asks for.
_CHECKS = """
import json, os, signal, sys, time
for number in range(int(sys.argv[-1]), 4):
    print(json.dumps({"started": f"check {number}", "ours": number != 2}), flush=True)
    if number in (1, 2):
        {trouble}
    print(json.dumps({"status": "ok", "detail": "fine", "advice": ""}), flush=True)
"""


def _command(trouble):
    return (sys.executable, "-c", _CHECKS.replace("{trouble}", trouble))


def test_all_checks_in_one_process():
    results = list(examine(_command("pass")))
    assert [result.name for result in results] == [f"check {i}" for i in range(4)]
    assert {result.found for result in results} == {Found("ok", "fine")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),  # A kernel that is out of memory sends this signal.
        ("sys.exit('no such thing')", "no such thing"),
        ("time.sleep(60)", "2 s"),
    ],
)
def test_a_check_that_crashes_or_hangs_is_a_finding_and_the_rest_go_on(trouble, said):
    results = list(examine(_command(trouble), patience=2))
    assert [result.name for result in results] == [f"check {i}" for i in range(4)]
    # The third check is not about this package's own programs.
    assert [result.found.status for result in results] == ["ok", "fail", "warn", "ok"]
    assert all(said in result.found.detail for result in results[1:3])
    assert ["XLA_FLAGS" in result.found.advice for result in results[1:3]] == [False, True]


def test_a_crash_after_the_last_check_is_not_taken_for_a_failed_start():
    command = (sys.executable, "-c", _CHECKS.replace("{trouble}", "pass") + "os.abort()")
    *checks, last = examine(command)
    assert {result.found.status for result in checks} == {"ok"}
    assert last.found.status == "fail"
    assert "SIGABRT" in last.found.detail
    assert last.name != running._START


def test_a_line_cut_short_by_a_kill_is_no_result():
    results = list(examine(_command("""print('{"status": "o', flush=True, end=''); os.abort()""")))
    assert [result.found.status for result in results] == ["ok", "fail", "warn", "ok"]


def test_what_native_code_prints_is_not_taken_for_a_result():
    code = "import os, sys, tsjax.doctor.__main__ as doctor\n"
    code += "from tsjax.doctor.check import Check, Found\n"
    code += "doctor.checks = lambda: [Check('a', lambda: (os.write(1, b'NCCL version 2'), Found('ok', 'fine'))[1])]\n"
    code += "doctor.main(int(sys.argv[-1]))"
    assert [tuple(result) for result in examine((sys.executable, "-c", code))] == [("a", Found("ok", "fine"))]


def test_checks_that_cannot_start_are_one_failure():
    results = list(examine((sys.executable, "-c", "raise SystemExit('no device')")))
    assert [(result.found.status, "no device" in result.found.detail) for result in results] == [("fail", True)]


@pytest.mark.parametrize(("trouble", "status"), [("pass", 0), ("os.abort()", 1)])
def test_the_status_of_the_command_tells(monkeypatch, capsys, trouble, status):
    monkeypatch.setattr(running.examine, "__defaults__", (_command(trouble), 20.0, lambda name, total: None))
    assert main(["doctor"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith(("ok", "warn", "fail"))]) == 4
    assert main(["doctor", "--json"]) == status
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["check"] for one in found] == [f"check {i}" for i in range(4)]


def test_the_start_of_each_check_is_told_with_the_number_of_checks():
    told = []
    code = "import sys, tsjax.doctor.__main__ as doctor\n"
    code += "from tsjax.doctor.check import Check, Found\n"
    code += "doctor.checks = lambda: (Check(name, lambda: Found('ok', 'fine')) for name in 'ab')\n"
    code += "doctor.main(int(sys.argv[-1]))"
    assert len(list(examine((sys.executable, "-c", code), starting=lambda *what: told.append(what)))) == 2
    assert told == [("a", 2), ("b", 2)]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_terminal_sees_what_is_checked_and_how_long_it_takes(monkeypatch, capsys, quiet):
    monkeypatch.setattr(running.examine, "__defaults__", (_command("pass"), 20.0, lambda name, total: None))
    monkeypatch.setattr("tsjax.cli.doctor.on_terminal", lambda: True)
    assert main(["doctor", *quiet]) == 0
    out, err = capsys.readouterr()
    assert "minutes" in err.splitlines()[0]
    assert "check 3" in err
    assert len(out.splitlines()) == (1 if quiet else 5)


def test_a_platform_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    *_, last = examine()
    assert last.found.status == "fail"
    assert "nonsense" in last.found.detail
