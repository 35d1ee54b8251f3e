"""Studies of how well proxies rank architectures whose trained accuracy is known: `archscore study`.

Needs the extra `study`; everything here but `_parser` imports it.
"""
