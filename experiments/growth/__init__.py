"""Networks that grow while they train: where new units help, and whether the cut knows it."""
