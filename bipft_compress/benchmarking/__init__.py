"""How fast and how large a packed model is here, beside what else is installed."""
