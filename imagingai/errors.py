"""The errors that a user may see. The message says what, the value, and the way out.

Raised deep, caught twice: in `__main__.py` (exit 2, or 130 for `Cancelled`) and in the panel (one
dialog). Every other exception is a bug and keeps its traceback.
"""

import errno

NO_SPACE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # of an OSError: the disk or a quota is full


class ImagingAIError(Exception):
    """Base of the errors below; never raised itself."""


class InputError(ImagingAIError):
    """An image, a geometry, a file or a value that cannot be used."""


class WeightsError(ImagingAIError):
    """Model weights that are missing, broken or made for another network."""


class JobFailed(ImagingAIError):
    """A job that could not finish for a reason outside its input: disk full, out of memory, a killed child."""


class Cancelled(ImagingAIError):
    """The user asked to stop."""
