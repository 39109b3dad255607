"""How sure a measured part is: Wilson's interval."""

import math

# Two-sided 95 % of a normal distribution.
Z = 1.959964
# From fewer images a calibration error says little: with 15 bins, chance alone gives
# several percent (Guo et al., 2017 use thousands).
ENOUGH_FOR_CALIBRATION = 200


def wilson(part: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a part of so many (Wilson, 1927).

    Args:
        part: what was measured, such as an accuracy, 0 … 1.
        count: of how many examples; 0 tells nothing: (0, 1).
    """
    if not count:
        return 0.0, 1.0
    scale = 1 + Z**2 / count
    middle = (part + Z**2 / (2 * count)) / scale
    half = Z / scale * math.sqrt(part * (1 - part) / count + (Z / (2 * count)) ** 2)
    # Rounding must not leave the range, nor what was measured.
    return max(0.0, min(part, middle - half)), min(1.0, max(part, middle + half))


def text(part: float, count: int) -> str:
    """'0.9444 (95 %: 0.9160 to 0.9637)'."""
    low, high = wilson(part, count)
    return f'{part:.4f} (95 %: {low:.4f} to {high:.4f})'


def calibration_text(error: float, count: int) -> str:
    """'0.0123', and a warning where too few images stand behind it."""
    few = f' of {count} images, too few for it to mean much'
    return f'{error:.4f}{few if count < ENOUGH_FOR_CALIBRATION else ""}'
