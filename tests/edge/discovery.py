"""What an API server says of itself: its version, the groups it serves, and the resources of a group.

Source: kubernetes/apimachinery ``pkg/apis/meta/v1/types.go`` APIVersions, APIGroupList, APIResourceList.
"""

from collections.abc import Collection

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import Json
from tests.edge.cluster import Refusal

_VERBS = ("create", "delete", "get", "list", "patch", "update", "watch")


def discover(resources: Collection[Resource], parts: list[str]) -> Json | None:
    """Return the answer for a path's ``parts``, ``None`` when it is not about discovery.

    Raises:
        Refusal: no such group and version.
    """
    match parts:
        case ["version"]:
            return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            return _list_groups(resources)
        case ["api", version]:
            return _list_resources(resources, "", version)
        case ["apis", group, version]:
            return _list_resources(resources, group, version)
    return None


def _list_groups(resources: Collection[Resource]) -> Json:
    groups: dict[str, set[str]] = {}
    for resource in resources:
        groups.setdefault(resource.group, set()).add(resource.version)
    entries = []
    for group, versions in sorted(groups.items()):
        listed = [{"version": version, "groupVersion": f"{group}/{version}"} for version in sorted(versions)]
        entries.append({"name": group, "versions": listed, "preferredVersion": listed[0]})
    return {"kind": "APIGroupList", "groups": [entry for entry in entries if entry["name"]]}


def _list_resources(resources: Collection[Resource], group: str, version: str) -> Json:
    rows = [each for each in resources if (each.group, each.version) == (group, version)]
    if not rows:
        raise Refusal(404, "NotFound", "404 page not found")
    listed = [
        {"name": row.plural, "kind": row.kind, "singularName": "", "namespaced": row.is_namespaced, "verbs": [*_VERBS]}
        for row in rows
    ]
    return {"kind": "APIResourceList", "groupVersion": f"{group}/{version}", "resources": listed}
