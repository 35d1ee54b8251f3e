"""What a score is: one file a family, each proxy a pure function from pass statistics to one number per network.

Importing this package fills the registry; reading it adds the proxies of installed packages, which register theirs with
`proxy` from here (`docs/extending.md`). A proxy's parameters name the statistics that it needs
(`archscore_server.engine.statistics`), so a signature says which passes run and a body reads like the formula.
"""

from archscore_server.engine.proxies._registry import Proxy, get, names, proxy

from archscore_server.engine.proxies import activations, gradients, saliency, sizes, tcet  # isort: skip  (fills the registry)

__all__ = ["Proxy", "activations", "get", "gradients", "names", "proxy", "saliency", "sizes", "tcet"]
