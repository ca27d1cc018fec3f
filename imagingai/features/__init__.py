"""Training of feature extractors."""
