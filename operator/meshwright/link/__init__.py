"""Which objects belong together."""
