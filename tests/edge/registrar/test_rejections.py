"""Who was refused, of many groups."""

from meshwright.edge.registrar.rejections import MAX_GROUPS, Rejections
from meshwright.model.enrollment import Turned
from meshwright.model.ref import Kind, Ref
from tests.edge.registrar.machines import SHOP


def test_many_groups_of_one_keep_nobody_elses_refusals_out() -> None:
    rejections = Rejections()
    groups = [Ref(Kind.EXTERNAL_GROUP, SHOP, f"g{number}") for number in range(MAX_GROUPS + 1)]
    for group in (groups[0], *groups[1:MAX_GROUPS], groups[0], groups[MAX_GROUPS]):
        rejections.note(group, Turned.BAD_TOKEN, "", "192.0.2.1", 7)
    assert [each.count for each in rejections.of_group(groups[0])] == [2]
    assert rejections.of_group(groups[1]) == ()
    assert [each.count for each in rejections.of_group(groups[MAX_GROUPS])] == [1]
