"""Settings that Linkerd has and we have not: what a pod that has one gets told instead.

Source: linkerd2 ``pkg/k8s/labels.go``, the constants with ProxyConfigAnnotationsPrefix.
"""

from collections.abc import Mapping
from types import MappingProxyType

_FIXED_PORT = "the proxy's ports are 4140, 4143 and 4191 everywhere"
_DEBUG = "use kubectl debug for a container beside the proxy"
_DETECTION = "name the ports in opaque-ports where nobody shall wait for a protocol"
_CACHE = "what a proxy knows is kept for as long as it is used"

UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "admin-port": _FIXED_PORT,
        "close-wait-timeout": "set it on the node",
        "control-port": _FIXED_PORT,
        "debug-image": _DEBUG,
        "debug-image-pull-policy": _DEBUG,
        "debug-image-version": _DEBUG,
        "enable-debug-sidecar": _DEBUG,
        "enable-external-profiles": "there are no ServiceProfiles here, write HTTPRoutes",
        "enable-gateway": "there is no gateway between clusters",
        "inbound-port": _FIXED_PORT,
        "outbound-port": _FIXED_PORT,
        "pod-inbound-ports": "every port of the pod is the proxy's, but for skip-inbound-ports",
        "proxy-additional-env": "Envoy takes no settings from its environment",
        "proxy-cpu-ratio-limit": "set proxy-cpu-limit",
        "proxy-disable-inbound-protocol-detect-timeout": _DETECTION,
        "proxy-disable-outbound-protocol-detect-timeout": _DETECTION,
        "proxy-gid": "the proxy's group is always 2102",
        "proxy-inbound-connect-timeout": "the proxy connects to the application within a second, or fails",
        "proxy-inbound-discovery-cache-unused-timeout": _CACHE,
        "proxy-log-http-headers": "headers are not logged",
        "proxy-metrics-hostname-labels": "metrics bear the names of Services",
        "proxy-outbound-connect-timeout": "set timeout.linkerd.io/request on the Service",
        "proxy-outbound-discovery-cache-unused-timeout": _CACHE,
        "proxy-uid": "the proxy's user is always 2102",
    }
)
"""What to tell about each, by the name after the prefix."""
