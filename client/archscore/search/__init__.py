"""Searches for architectures by their scores, against a server or an engine in the same process."""

from archscore.search._scorer import Scorer

__all__ = ["Scorer"]
