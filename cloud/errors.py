"""What can go wrong with a cloud. ``CloudError`` is the one that callers catch."""


class CloudError(Exception):
    """The cloud did not do what was asked, or said nothing; the message says what."""
