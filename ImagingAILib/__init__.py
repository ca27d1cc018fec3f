"""What the ImagingAI modules of 3D Slicer share: nodes and files, parameters, child processes, the panel, installing."""
