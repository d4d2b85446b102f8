"""Training: losses, optimizer, one sharded step, and the loop around it."""
