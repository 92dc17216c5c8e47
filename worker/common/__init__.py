"""What several packages use and no business rule is in: deadlines, fair sharing, the HTTP client, signals."""
