"""Pure tensor functions. Every operation has a readable reference beside its fast form."""
