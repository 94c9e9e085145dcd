"""The one error of calibration."""


class CalibrationError(ValueError):
    """A network or its pictures cannot be calibrated; the message says what was expected, what is there, what to do."""
