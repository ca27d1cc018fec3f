"""ImagingAI: topology-aware registration and more for people who work with medical images."""

__version__ = "0.1.0"
