"""What the methods share: noise schedules, DDIM sampling and inversion, the one-shot training loop."""
