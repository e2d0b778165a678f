"""Each call of the hook over real sockets: transient failures, errors, transfers, attempts. See case.py for a case."""
