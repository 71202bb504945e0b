"""What the runner makes of its checks. These run anywhere; the checks themselves are `make kubelet`."""

import re
from pathlib import Path

from tests.guest.run import read_report
from tests.kubelet.build import SOURCES, version
from tests.kubelet.checks import CHECKS, Check
from tests.kubelet.run import Outcome, report, run_check, run_checks, settle
from tests.kubelet.world import KubeletNode, LeftOut


class NoNode(KubeletNode):
    """A node for checks that use none."""

    def __init__(self, place: Path) -> None:
        self.place = self.manifests = place
        self._server = None


def test_every_check_has_a_sentence() -> None:
    """Each check has a name of its own and a sentence that ends with a stop, and there are more than forty."""
    assert len(CHECKS) == len({one.name for one in CHECKS}) > 40
    assert [] == [one.name for one in CHECKS if not one.sentence.endswith(".")]


def test_what_becomes_of_a_check(tmp_path: Path) -> None:
    """A check passes, fails with its line and its values, or is left out for its reason; its pods are removed."""

    def fails(k: KubeletNode, pod: str) -> None:
        wanted = 3
        assert wanted == len(pod)

    def is_left_out(k: KubeletNode, pod: str) -> None:
        raise LeftOut("no reason")

    def passes(k: KubeletNode, pod: str) -> None:
        for name in (pod, f"{pod}--2"):
            (k.manifests / f"{name}.json").touch()

    k = NoNode(tmp_path)
    (tmp_path / "passes-by.json").touch()
    failed, left_out, passed, late = (
        run_check(Check(run, alone=False), k, until)
        for run, until in ((fails, 1e12), (is_left_out, 1e12), (passes, 1e12), (fails, 0))
    )
    assert "failed" == failed.how
    assert re.search(r"assert wanted == len\(pod\)\n.*'wanted': '3'", failed.why)
    assert ("left out", "no reason") == (left_out.how, left_out.why)
    assert ("passed", "") == (passed.how, passed.why)
    assert ("left out", "want of time") == (late.how, late.why)
    assert ["passes-by.json"] == [path.name for path in tmp_path.iterdir()]


def test_alone_without_pods_of_others(tmp_path: Path) -> None:
    """A check that runs alone begins when the kubelet has removed the folders of the pods of the checks before it."""

    class RemovesLate(NoNode):
        """Its kubelet removes each folder after it was seen once."""

        def pod_folders(self) -> list[Path]:
            seen = super().pod_folders()
            for folder in seen:
                folder.rmdir()
            return seen

    def leaves_its_pod(k: KubeletNode, pod: str) -> None:
        (tmp_path / "root/pods/uid").mkdir(parents=True)

    def finds_none(k: KubeletNode, pod: str) -> None:
        assert [] == k.pod_folders()

    checks = [Check(finds_none, alone=True), Check(leaves_its_pod, alone=False)]
    assert ["passed", "passed"] == [outcome.how for outcome in run_checks(checks, RemovesLate(tmp_path), 1e12)]


def test_a_folder_that_stays(tmp_path: Path) -> None:
    """The folder of a pod that the kubelet does not remove does not end the run."""
    (tmp_path / "root/pods/uid").mkdir(parents=True)
    k = NoNode(tmp_path)
    settle(k, seconds=0)
    assert [tmp_path / "root/pods/uid"] == k.pod_folders()


def test_a_report_for_the_guest(tmp_path: Path) -> None:
    """The guest's runner reads each outcome of the report."""
    outcomes = [Outcome(one, how) for one, how in zip(CHECKS, ("passed", "failed", "left out"), strict=False)]
    report(outcomes, tmp_path / "kubelet.xml")
    expected = {f"kubelet.{outcome.check.name}": outcome.how for outcome in outcomes}
    assert expected == read_report((tmp_path / "kubelet.xml").read_text())


def test_the_release_is_whole() -> None:
    """Every staging module is replaced by the release of the kubelet that is built."""
    staging = re.findall(r"=> k8s\.io/\S+ (v0\.\S+)", (SOURCES / "go.mod").read_text())
    assert {version().replace("v1.", "v0.", 1)} == set(staging)
