"""The folders that are deployed."""

from tests.support.built import built, built_job

__all__ = ["built", "built_job"]
