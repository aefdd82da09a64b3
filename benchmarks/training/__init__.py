"""Comparisons of training methods, and the settings of their runs."""
