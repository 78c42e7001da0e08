"""Losses, predicted rates and rate laws."""
