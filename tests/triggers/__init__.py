"""The trigger: one, and many on one event loop."""
