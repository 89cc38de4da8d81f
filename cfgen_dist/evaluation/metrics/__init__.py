"""What is measured: one function a metric, one row of `catalogue` each."""
