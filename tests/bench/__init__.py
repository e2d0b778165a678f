"""A benchmark of a thousand waits on one event loop, of this provider and of others: ``make bench``."""
