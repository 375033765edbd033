"""What runs on a machine outside the cluster, beside its Envoy.

The resident process loads nothing but the standard library: certificates are made and looked at, and SVIDs are
fetched, by programs of their own that end again.
"""
