"""Callbacks for a Trainer: one public callback per file, and the file has the name of the callback."""
