"""Each provider behind Portkey's real gateway: requests in, answers out."""
