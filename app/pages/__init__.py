"""HTML: the same services and rules as the API, for people."""
