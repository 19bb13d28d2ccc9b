"""What in VIA's adaptation takes the results away from the truth."""
