"""meshwright: Gateway API routes and Linkerd's policies, compiled for Envoy."""

__version__ = "0.1.0"
