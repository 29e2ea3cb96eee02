"""Pictures: from what a request carries to arrays, within limits."""
