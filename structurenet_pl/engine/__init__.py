"""What runs in a fit?

The driver, its hooks among other callbacks, checks at the start of a fit, and modules that grow in a Trainer.
"""
