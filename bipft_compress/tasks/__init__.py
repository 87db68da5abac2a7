"""What a model is good for, measured on labelled data."""
