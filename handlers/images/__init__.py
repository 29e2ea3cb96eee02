"""Read pictures: from a request to arrays, within limits."""
