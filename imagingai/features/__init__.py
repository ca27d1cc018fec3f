"""Training of feature extractors for deepsim (Czolbe et al. 2023, paper 1): segmentation networks and auto-encoders."""
