"""Training images made from label maps: random anatomy, contrast, artefacts. No data set is needed.

The idea is that of SynthSeg (Billot et al., Medical Image Analysis 2023): a network that has only ever seen
images of random contrast, resolution and artefacts, whose labels are exact, works on real scans of any contrast.
"""
