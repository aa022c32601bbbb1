"""HTML pages, built on the same services and rules as the APIs."""
