"""Faces that other packages' programs know, each in a file of its own. None needs the package whose face it has."""
