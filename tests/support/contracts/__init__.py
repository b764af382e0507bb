"""Contract test classes: what every implementation of a seam promises. An implementation inherits one and gives a
fixture that makes it.
"""
