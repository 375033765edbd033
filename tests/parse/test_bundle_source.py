"""Where the trust bundle is, as a flag says it."""

import pytest

from meshwright.model.ref import Kind
from meshwright.parse.bundle_source import BundleSource, parse_bundle_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("", None),
        ("configmap/roots", BundleSource(kind=Kind.CONFIG_MAP, name="roots")),
        ("ConfigMap/roots/ca.crt", BundleSource(kind=Kind.CONFIG_MAP, name="roots", key="ca.crt")),
        ("secret/meshwright-trust-anchor", BundleSource(kind=Kind.SECRET, name="meshwright-trust-anchor")),
        ("secret/a.b/tls.crt", BundleSource(kind=Kind.SECRET, name="a.b", key="tls.crt")),
    ],
)
def test_a_flag_names_an_object_and_maybe_a_key(text: str, source: BundleSource | None) -> None:
    assert parse_bundle_source(text) == source


@pytest.mark.parametrize("text", ["roots", "configmap", "configmap/", "pod/a", "secret/A", "secret/a/", "secret/a/b/c"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="configmap/NAME or secret/NAME"):
        parse_bundle_source(text)
