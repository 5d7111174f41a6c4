"""The callbacks of the suite: one factor of the learning rate, one trigger or one view in each file."""
