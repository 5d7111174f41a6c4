"""How fast does each component learn?

The moment that factors see, the factors evaluated together, the table of each optimizer, and the one writer of lrs.
"""
