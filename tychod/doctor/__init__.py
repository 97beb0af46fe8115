"""What has to be in place on this host, looked at by the collectors' own probes: `tychod --doctor`.

Nothing is attached, loaded, changed or logged in to.
"""
