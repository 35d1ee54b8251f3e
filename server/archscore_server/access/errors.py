"""What goes wrong when a server or a command sets up who may call."""

from __future__ import annotations


class AccessError(Exception):
    """Tokens, certificates or addresses cannot be used as they are; the message is for who set them up."""
