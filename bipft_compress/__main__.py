"""``python -m bipft_compress``."""

from bipft_compress.cli import main

if __name__ == "__main__":
    main()
