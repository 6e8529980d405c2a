"""The report: one self-contained HTML page of results, and the README's table."""
