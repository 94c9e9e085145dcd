"""Code that goes before and after a variant's: it resizes a picture, chooses a variant for it, and ranks its logits.

runtime/choice and runtime/pictures/arrays.py say in numpy what it computes; every processor's code gives those integers.
"""
