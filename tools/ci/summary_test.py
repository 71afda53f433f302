import json
import subprocess
import sys

import pytest
import summary

GTEST = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites><testsuite name="A">
  <testcase name="ok" status="run" result="completed" />
  <testcase name="bad" status="run" result="completed"><failure message="x"></failure></testcase>
  <testcase name="skip" status="run" result="skipped"><skipped message=""/></testcase>
  <testcase name="DISABLED_off" status="notrun" result="suppressed" />
</testsuite></testsuites>"""
PYTEST = """<testsuites><testsuite>
  <testcase name="ok"/><testcase name="other"/><testcase name="boom"><error message="fixture"/></testcase>
</testsuite></testsuites>"""
BAZEL_OF_A_CRASH = """<testsuites><testsuite>
  <testcase name="t"><error message="exited with error code 139"/></testcase>
</testsuite></testsuites>"""


def test_cases_of_each_kind_of_report():
    assert summary.count_cases(GTEST) == {"passed": 1, "failed": 1, "skipped": 2}
    assert summary.count_cases(PYTEST) == {"passed": 2, "failed": 1}
    assert summary.count_cases(BAZEL_OF_A_CRASH) == {"failed": 1}


def result(label, report):
    output = [{"name": "test.xml", "uri": f"file://{report}"}]
    return {"id": {"testResult": {"label": label}}, "testResult": {"testActionOutput": output}}


def status(label, overall):
    return {"id": {"testSummary": {"label": label}}, "testSummary": {"overallStatus": overall}}


def completed(label, **what):
    return {"id": {"targetCompleted": {"label": label}}, **what}


def run(tmp_path, *events):
    path = tmp_path / "events.json"
    path.write_text("\n".join(json.dumps(e) for e in events))
    done = subprocess.run([sys.executable, summary.__file__, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_all_passed(tmp_path):
    report = tmp_path / "a b.xml"
    report.write_text('<testsuites><testsuite><testcase name="a"/><testcase name="b"/></testsuite></testsuites>')
    events = [completed("//a", completed={"success": True}), result("//a", str(report).replace(" ", "%20"))]
    assert run(tmp_path, *events, status("//a", "PASSED")) == (0, ["2 passed, 0 failed, 0 skipped"])


def test_a_skipped_target_is_named_and_is_no_failure(tmp_path):
    gpu = completed("//gpu", aborted={"reason": "SKIPPED"})
    code, lines = run(tmp_path, gpu, status("//a", "PASSED"))
    assert code == 0
    assert lines == ["skipped, this machine lacks what it needs: //gpu", "1 passed, 0 failed, 0 skipped"]


@pytest.mark.parametrize("overall", ["FAILED", "TIMEOUT", "NO_STATUS", "FAILED_TO_BUILD"])
def test_a_test_that_did_not_pass_fails_the_run(tmp_path, overall):
    code, lines = run(tmp_path, status("//good", "PASSED"), status("//bad", overall))
    assert code == 1
    assert lines == [f"{overall.lower()}: //bad", "1 passed, 1 failed, 0 skipped"]


def test_a_failed_test_with_a_clean_report_still_fails(tmp_path):
    report = tmp_path / "test.xml"
    report.write_text('<testsuites><testsuite><testcase name="a"/></testsuite></testsuites>')
    code, lines = run(tmp_path, result("//a", report), status("//a", "FAILED"))
    assert (code, lines[-1]) == (1, "1 passed, 1 failed, 0 skipped")


def test_a_target_that_does_not_build_fails_the_run(tmp_path):
    code, lines = run(tmp_path, completed("//lib", completed={}), status("//a", "PASSED"))
    assert (code, lines) == (1, ["did not build: //lib", "1 passed, 1 failed, 0 skipped"])


def test_no_test_at_all_is_no_success(tmp_path):
    assert run(tmp_path, {"id": {"started": {}}}) == (1, ["0 passed, 0 failed, 0 skipped"])
