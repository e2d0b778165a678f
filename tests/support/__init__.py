"""What several suites share: servers, doubles, recorders and small helpers. No tests."""
