"""Which modules of a model become binary: structure alone, no values."""
