"""The table of places has every kind, once."""

from meshwright.edge.resources import (
    LOCAL_OUTPUTS,
    LOCAL_SOURCES,
    OUTPUTS,
    RESOURCES,
    ROUTES,
    SOURCES,
    VERSIONS,
    Role,
)
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS


def test_every_kind_has_its_places() -> None:
    assert set(RESOURCES) == set(VERSIONS) == set(Kind)
    for kind, versions in VERSIONS.items():
        assert {(found.group, found.kind) for found in versions} == {(kind.group, kind.word)}
        assert RESOURCES[kind] == versions[0]


def test_every_kind_that_is_compiled_or_written_is_watched() -> None:
    assert {source.kind for source in SOURCES} == {*KINDS, *OUTPUTS}
    assert {Kind.CONFIG_MAP, Kind.ENDPOINT_SLICE} == OUTPUTS
    assert {Kind.HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.RATE_LIMIT_POLICY} == ROUTES


def test_only_kinds_that_may_be_missing_are_custom() -> None:
    custom = {kind for kind, resource in RESOURCES.items() if resource.is_custom}
    routing = {Kind.HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.REFERENCE_GRANT, Kind.EXTERNAL_WORKLOAD}
    policy = {kind for kind in Kind if kind.group == Kind.SERVER.group}
    joining = {Kind.EXTERNAL_GROUP, Kind.REGISTRATION_POLICY}
    assert custom == routing | policy | joining | {Kind.ISSUER, Kind.CERTIFICATE}


def test_secrets_are_read_one_by_one_in_the_control_planes_namespace() -> None:
    assert Kind.SECRET not in {source.kind for source in SOURCES}
    assert {source.role for source in LOCAL_SOURCES if source.kind is Kind.SECRET} == {Role.ISSUER, Role.BUNDLE}
    assert {Kind.ISSUER, Kind.CERTIFICATE} == LOCAL_OUTPUTS
