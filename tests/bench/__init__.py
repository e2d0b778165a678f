"""A benchmark of a thousand waits on one event loop, ours beside the peers': ``make bench``."""
