"""What runs in the other servers' environments: the same work behind their own interfaces."""
