"""Counts the test cases of a Bazel run from its build events: summary.py BUILD_EVENTS.json.

Names what failed and what was skipped, and ends with "N passed, N failed, N skipped".
Exits with 1 where a test failed, a target did not build, or there was no test.
"""

import json
import sys
import urllib.parse
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path
from typing import Any


def count_cases(report: str) -> Counter[str]:
    """Passed, failed and skipped cases of one JUnit report, as googletest, pytest and Bazel write them."""
    counts: Counter[str] = Counter()
    for case in xml.etree.ElementTree.fromstring(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
        elif "skipped" in kinds or case.get("status") == "notrun" or case.get("result") == "skipped":
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts


class Run:
    """What the build events say."""

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}  # test target -> PASSED, FAILED, ...
        self.reports: dict[str, list[Path]] = {}  # test target -> its JUnit files
        self.skipped_targets: set[str] = set()
        self.broken_targets: set[str] = set()

    def add(self, event: dict[str, Any]) -> None:
        identity = event.get("id", {})
        if "testSummary" in identity:
            self.statuses[identity["testSummary"]["label"]] = event.get("testSummary", {}).get(
                "overallStatus", "NO_STATUS"
            )
        elif "testResult" in identity:
            for output in event.get("testResult", {}).get("testActionOutput", []):
                if output.get("name") == "test.xml":
                    path = Path(urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path))
                    self.reports.setdefault(identity["testResult"]["label"], []).append(path)
        elif "targetCompleted" in identity:
            label = identity["targetCompleted"]["label"]
            reason = event.get("aborted", {}).get("reason")
            if reason == "SKIPPED":
                self.skipped_targets.add(label)
            elif reason or not event.get("completed", {}).get("success", False):
                self.broken_targets.add(label)

    def summarize(self) -> tuple[list[str], Counter[str]]:
        """Lines about what did not pass, and the cases' counts."""
        lines = [f"did not build: {label}" for label in sorted(self.broken_targets - self.statuses.keys())]
        lines += [f"skipped, this machine lacks what it needs: {label}" for label in sorted(self.skipped_targets)]
        total = Counter(failed=len(lines) - len(self.skipped_targets))
        for label, status in sorted(self.statuses.items()):
            counts: Counter[str] = Counter()
            for report in self.reports.get(label, []):
                try:
                    counts += count_cases(report.read_text(errors="replace"))
                except (OSError, xml.etree.ElementTree.ParseError):
                    continue  # the test died before its report was whole: its status counts
            if status in ("PASSED", "FLAKY"):
                counts["passed"] += not counts
                counts["failed"] = 0
            else:
                lines.append(f"{status.lower()}: {label}")
                counts["failed"] += not counts["failed"]
            total += counts
        return lines, total


def main(argv: list[str]) -> int:
    run = Run()
    for line in Path(argv[0]).read_text(errors="replace").splitlines():
        run.add(json.loads(line))
    lines, total = run.summarize()
    print("\n".join(lines + [f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"]))
    return 0 if total["passed"] and not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
