"""The toy world: a renderer with known answers, and small models trained on it."""
