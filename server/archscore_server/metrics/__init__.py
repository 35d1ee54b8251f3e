"""What Prometheus sees. The front end owns the registry; workers send it numbers.

Label values come from closed sets (spaces, proxies, outcomes, methods that exist, status codes), or are names of
authenticated callers, of which there are so many at most: no client can make the number of time series grow.
docs/metrics.md lists the metrics.
"""

from archscore_server.metrics._metrics import Metrics
from archscore_server.metrics._outcomes import ArchitectureOutcome, ProxyOutcomes
from archscore_server.metrics._page import MetricsPage

__all__ = ["ArchitectureOutcome", "Metrics", "MetricsPage", "ProxyOutcomes"]
