"""What does a user see of the learning rates?

Rows in loggers, printed tables, the record of a run and its pictures, previews, and TensorBoard.
"""
