"""A live page of a federation, made from its round log; on this machine's loopback alone."""
