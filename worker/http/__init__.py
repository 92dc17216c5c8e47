"""The HTTP functions: authentication, validation of requests, responses."""
