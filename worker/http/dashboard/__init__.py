"""The operator's page: HTML, script and style in one response."""
