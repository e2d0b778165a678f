"""What our modules do and say, without sockets."""
