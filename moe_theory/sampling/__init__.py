"""Data, or its exact sufficient statistics at any sample size."""
