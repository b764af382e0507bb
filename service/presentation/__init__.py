"""Presentation: what to show, as labels, rows and cells of text.

Pure functions over the schemas, for the terminal and for pages. It must not know how text is drawn: no widths, no
colors, no markup.
"""
