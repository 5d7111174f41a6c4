"""Structure follows the log: what growth changes in optimizer, schedulers and checkpoint. No learning rates here."""
