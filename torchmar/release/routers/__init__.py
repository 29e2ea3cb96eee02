"""What sends a share of the real requests to a candidate: nginx."""
