"""Networks that do not train for a known reason, healthy ones, and what `diagnose` says of them."""
