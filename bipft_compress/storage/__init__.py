"""How each number is stored: decided in `plan`, and turned into bits."""
