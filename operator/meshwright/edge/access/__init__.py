"""Who may call whom, asked of manifests and of clusters."""
