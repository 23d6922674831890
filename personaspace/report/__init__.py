"""The report on a study: one HTML page that needs nothing but itself, and a Markdown summary.

`page.build` writes both; `summary.table` is the terminal's and needs neither figures nor templates.
"""
