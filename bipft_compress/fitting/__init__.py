"""Where a binary model starts: closed forms and descent, a layer at a time."""
