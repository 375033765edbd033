"""Pods and settings for tests of injection."""

from typing import Any

from meshwright.model.identity import TrustDomain
from meshwright.model.injection import TEMPLATES, InjectionSettings

SETTINGS = InjectionSettings(
    trust=TrustDomain(),
    image="registry.example/meshwright:1.2.3",
    version="1.2.3",
    xds="meshwright-xds.meshwright:15010",
    signing="meshwright-xds.meshwright:15012",
    defaults={"skip-inbound-ports": "4567,4568", "proxy-cpu-request": "100m"},
)
VERSIONS = {"": "v1", "apps": "apps/v1", "batch": "batch/v1"}


def make_template(**spec: Any) -> dict[str, Any]:
    containers = [
        {"name": "app", "image": "registry.example/app:1", "ports": [{"name": "http", "containerPort": 8080}]}
    ]
    return {"metadata": {"labels": {"app": "app"}}, "spec": {"containers": containers, **spec}}


def wrap(group: str, kind: str, template: dict[str, Any]) -> dict[str, Any]:
    """Return an object of a kind whose pods are made of ``template``."""
    inner: dict[str, Any] = template
    for name in reversed(TEMPLATES[group, kind]):
        inner = {name: inner}
    inner.setdefault("metadata", {})["name"] = "app"
    return {"apiVersion": VERSIONS[group], "kind": kind, **inner}
