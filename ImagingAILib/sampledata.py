"""The sample data of the modules, in Slicer's module Sample Data."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _

CATEGORY = "ImagingAI"
URL = "https://raw.githubusercontent.com/ImagingAI/SlicerImagingAI/main/Testing/Data/"
BRAINS = (  # file, name of the node, checksum
    ("brain_fixed.nii.gz", "BrainFixed", "5859d6714940aa96cb7bd44725152b65e9c3fe70019a29c3af40ef80e3b3a1ef"),
    ("brain_moving.nii.gz", "BrainMoving", "5c2f616ac36af825744f1454958ac184eeeb62221f609836f70fa4af97a1ef65"),
    ("brain_fixed_labels.nii.gz", "BrainFixedLabels", "7a43a923316ff48bdd2f898d8ebe11d952071331bb7e0f9126a9ba155f7737e4"),
    ("brain_moving_labels.nii.gz", "BrainMovingLabels", "9bd5c4506bca8520b470b4ab8034cfa2b540c65100136b3bce8594bbedb5e35d"),
)


def registerSampleData() -> None:
    """Two brains of different people with their labels. Connect it to `startupCompleted()`, when Sample Data is loaded."""
    from SampleData import SampleDataLogic

    if hasattr(SampleDataLogic, "registerCustomSampleDataCategory"):  # not in Slicer 5.10
        SampleDataLogic.registerCustomSampleDataCategory(CATEGORY, title=_("ImagingAI"))
    files, names, digests = (list(column) for column in zip(*BRAINS, strict=True))
    SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=_("Brain pair"),
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "BrainPair.png"),
        uris=[URL + file for file in files],
        fileNames=files,
        nodeNames=names,
        loadFileType=["SegmentationFile" if "labels" in file else "VolumeFile" for file in files],  # newer: loadFileTypes, or this
        checksums=[f"SHA256:{digest}" for digest in digests],
    )
