"""Pictures and masks as numpy arrays: what files hold, and what scripts give and get."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""``[H, W, 3]``, sRGB, 0 to 255."""

Mask = NDArray[np.bool_]
"""``[H, W]``, true where a picture may change, or what was looked for is."""

Alpha = NDArray[np.uint8]
"""``[H, W]``, 0 where a picture is transparent to 255."""
