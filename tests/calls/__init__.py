"""Each call of the hook over real sockets: transient failures, errors, transfers, attempts. See case.py for a case."""

import pytest

# Before these are imported, so that a failed assertion in them shows its values.
pytest.register_assert_rewrite("tests.calls.run", "tests.calls.checks")
