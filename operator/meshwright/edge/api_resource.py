"""Where the API server has a kind."""

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Where one kind is served: ``group`` is ``""`` for core, ``kind`` is the bare word written in manifests.

    ``is_custom``: it comes from a CustomResourceDefinition, and may be missing. ``is_partial``: of its objects, lists
    and watches give the metadata alone.
    """

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True
    is_custom: bool = False
    is_partial: bool = False

    @property
    def api_version(self) -> str:
        """Return ``v1`` or ``group/version``, as manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the URL path: that of all namespaces without ``namespace``, of the collection without ``name``."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace and self.is_namespaced:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


CUSTOM_RESOURCE_DEFINITIONS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    is_namespaced=False,
)
