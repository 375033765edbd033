"""Objects with the addresses a cluster would give them, as manifests change."""

from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.local_objects import LocalObjects
from meshwright.edge.manifests import Manifest, Place
from meshwright.edge.offline import fill_in_addresses
from meshwright.model.desired import Json
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

REFS = [Ref(Kind.SERVICE, Namespace("shop"), name) for name in ("a", "b", "c")]
DRAWN = [
    raw["spec"]["clusterIP"]
    for raw in fill_in_addresses({ref: {"spec": {}} for ref in REFS}, DEFAULT_SERVICE_RANGES).values()
]
SPECS: tuple[Json, ...] = (
    *({"clusterIP": address} for address in DRAWN),
    {},
    {"ports": [{"port": 80}]},
    {"clusterIP": DRAWN[0], "ports": [{"port": 80}]},
    {"clusterIP": "None"},
    {"type": "ExternalName"},
    {"ipFamilies": ["IPv6", "IPv4"]},
)
steps = st.lists(st.tuples(st.sampled_from(REFS), st.sampled_from((None, *SPECS))), max_size=8)


@given(steps)
def test_addresses_are_those_that_all_services_would_get_at_once(taken: list[tuple[Ref, Json | None]]) -> None:
    objects = LocalObjects()
    written: dict[Ref, Manifest] = {}
    for ref, spec in taken:
        written.pop(ref, None)
        if spec is not None:
            written[ref] = Manifest(raw={"spec": spec}, place=Place("all.yaml", 1))
        before = dict(objects.raws)
        changed = objects.take(written, [ref])
        raws = {each: manifest.raw for each, manifest in written.items()}

        assert objects.raws == fill_in_addresses(raws, DEFAULT_SERVICE_RANGES)
        assert changed == {each for each in REFS if before.get(each) != objects.raws.get(each)}


def test_a_service_moves_on_when_another_names_its_address() -> None:
    objects = LocalObjects()
    written = {REFS[0]: Manifest(raw={"spec": {}}, place=Place("all.yaml", 1))}
    objects.take(written, REFS)
    written[REFS[1]] = Manifest(raw={"spec": {"clusterIP": DRAWN[0]}}, place=Place("all.yaml", 2))

    assert objects.take(written, [REFS[1]]) == set(REFS[:2])
    assert objects.raws[REFS[0]]["spec"]["clusterIP"] != DRAWN[0]
