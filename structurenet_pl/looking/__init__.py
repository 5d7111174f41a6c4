"""Logs, tables and pictures of the learning rates, of a run or of what is to come."""
