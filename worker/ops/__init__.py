"""Operations: check, sweep, health, metrics, Cloud Run."""
