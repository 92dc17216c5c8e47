"""The operator's page: one answer, with its script and style."""
