"""What runs in the measured processes: ours and, beside it, the reference. Each function takes a `Work` and gives a `Measured`."""
