"""Text in: documents from files, the hub or Python itself, as token sequences."""
