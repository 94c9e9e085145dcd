"""The warning that a picture can be read, but perhaps not as it was meant."""


class PictureWarning(UserWarning):
    """A picture was read although something in its file is damaged or unusual; the message says what."""
