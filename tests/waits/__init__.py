"""
Waits under adverse conditions, over real sockets.

Each case runs with ``requests`` (a sensor that polls on a worker) and with ``aiohttp`` (its trigger), and must have
the same result on both. Only a terminal batch, a permanent error or the timeout ends a wait.

A file holds one table of cases and the short test that runs them. :mod:`tests.waits.case` says what a case is made of,
:mod:`tests.waits.run` runs it, :mod:`tests.waits.checks` and :mod:`tests.waits.builders` are what cases are built with.
"""
