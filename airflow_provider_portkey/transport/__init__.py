"""Sends requests: ``requests`` on workers, ``aiohttp`` in the triggerer. Decides nothing."""
