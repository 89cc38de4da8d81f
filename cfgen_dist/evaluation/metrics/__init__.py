"""What is measured: a file for each kind of metric, and `catalogue`, the table with a row for each."""
