"""Everything that waits, reads, writes, logs or counts."""
