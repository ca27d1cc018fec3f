"""Segmentation with uncertainty (Czolbe et al. 2021, "Is segmentation uncertainty useful?", IPMI): models, maps, quality control."""
