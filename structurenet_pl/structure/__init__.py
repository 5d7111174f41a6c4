"""What is the network made of, and how did it grow?

Components, growth events, the ``@growth`` method, what a growth changed and which tensor continues which, the way back
after an error, and the growth log. No optimizer and no Lightning.
"""
