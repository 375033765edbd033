"""End-to-end tests: a real Kubernetes, a real Envoy, a real cert-manager."""
