"""Bodies to write: Envoy messages, manifests, conditions."""
