"""What does a user see of the learning rates?

Tables, logs, history, figures, previews and TensorBoard.
"""
