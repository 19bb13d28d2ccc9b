"""What the trained models make of held-out scenes, and what the judge sees in it."""
