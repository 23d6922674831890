"""The report on a study: one HTML page that needs nothing but itself, and a Markdown summary."""
