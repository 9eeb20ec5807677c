"""What the figures of off-policy estimates and of experiments are worth, against known answers."""
