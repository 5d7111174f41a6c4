"""What do you drop into a Trainer? One public callback in each file, named as the callback."""
