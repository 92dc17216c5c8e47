"""The tests: a folder for each part of the project, and what they share in `support`."""

import pytest

pytest.register_assert_rewrite("tests.support")
