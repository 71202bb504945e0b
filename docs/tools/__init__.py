"""What makes pages and pictures out of the code."""
