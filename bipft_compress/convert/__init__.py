"""From full precision to binary: swap modules, then fit them layer by layer."""
