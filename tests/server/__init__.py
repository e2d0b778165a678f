"""A stand-in for Portkey's batch API, and Portkey's own open-source gateway, both on loopback."""
