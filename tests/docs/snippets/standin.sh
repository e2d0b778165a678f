python -m tests.server --port 8787
