"""What a person reads: the live line, the table, later the HTML report."""
