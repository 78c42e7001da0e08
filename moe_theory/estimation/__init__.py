"""The fit and its certificate."""
