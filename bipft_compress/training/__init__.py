"""Continued binary pretraining with distillation from the original."""
