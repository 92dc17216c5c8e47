"""Looking after the queue: checks, sweep, health, metrics, Cloud Run."""
