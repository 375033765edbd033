"""What docs/external-machines.md lists is all there is."""

import re
from pathlib import Path

from meshwright.model.enrollment import STATUS_OF, Turned
from tests.documents import read_document

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/external-machines.md").read_text()


def test_every_reason_for_turning_a_machine_away_is_in_the_row_of_its_status() -> None:
    rows = [line.split("|") for line in TEXT.splitlines() if re.match(r"\| [45]\d\d", line)]
    told = {word: cells[1] for cells in rows for word in re.findall(r"`(\w+)`", cells[2])}
    assert set(told) == {reason.value for reason in Turned}
    for reason in Turned:
        assert str(STATUS_OF[reason]) in told[reason.value], reason


def test_every_field_of_a_registration_policy_is_in_the_table_and_no_other() -> None:
    crd = read_document((ROOT / "crds/registrationpolicies.meshwright.dev.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    nested = {"clientCertificate", "limits", "timers"}
    fields = {name for name in spec if name not in nested} | {
        f"{name}.{field}" for name in nested for field in spec[name]["properties"]
    }
    table = TEXT.partition("| field of `spec` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == fields
