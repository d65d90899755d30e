"""Scripts that a new site has in jobs/examples, to read and to change."""
