"""A diagnosis as text, in a terminal's colours, as a page.

Everything here that comes from a user's model, names above all, is taken for hostile: it may hold
markup of any kind, newlines, escape sequences, and be as long as it likes.
"""
