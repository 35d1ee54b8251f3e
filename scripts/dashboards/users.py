"""The page for who asks: throughput by proxy, latency, queue, cache."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards._panels import Panel, Query, metric, number, page, quantile, series, share, total

_SERVICE = "archscore.v1.ScoringService"
#: Outcomes of architectures that were evaluated as asked.
_SCORED = 'outcome=~"ok|degenerate|non_finite"'
_LOOKED_UP = 'result=~"hit|miss"'
_FROM_STORE = share("archscore_store_scores_total", 'result="hit"', of=[_LOOKED_UP])


def dashboard() -> Dashboard:
    """The page."""
    return page(
        "archscore-users",
        "archscore: users",
        "What those who ask get: how much, how fast, and what they wait for.",
        [
            ("Now", _now()),
            ("Throughput", _throughput()),
            ("Latency", _latency()),
            ("Queue", _queue()),
            ("Cache", _cache()),
        ],
    )


def _now() -> list[Panel]:
    return [
        number(
            "Scored",
            "suffix: /s",
            "Architectures that got scores. If it falls while the queue is not empty, look at the workers on the page"
            " for operators.",
            Query(total("archscore_architectures_total", matchers=[_SCORED]), "architectures"),
        ),
        number(
            "Waiting",
            "short",
            "Architectures that wait for a worker. A search that waits too long asks with a higher priority; if it "
            "grows for hours, the server needs more or faster devices.",
            Query(f"sum({metric('archscore_queued_architectures')})", "architectures"),
        ),
        number(
            "Wait for a worker, p95",
            "s",
            "Nineteen of twenty architectures wait less. If it is long, see which priority waits, below, and who asks"
            " for most.",
            Query(quantile(0.95, "archscore_queue_wait_seconds"), "p95"),
            bad=(10, 60),
        ),
        number(
            "From the store",
            "percentunit",
            "Share of scores that were asked for and had been computed before. A search that repeats itself has a "
            "high one. If it drops to 0 after an upgrade, the versions of proxies or torch have changed and scores "
            "are computed anew.",
            Query(_FROM_STORE, "hits"),
            decimals=0,
        ),
        number(
            "Without scores",
            "percentunit",
            "Share of architectures that got an error. The panel by outcome says which; docs/clients.md has what to "
            "do about each.",
            Query(share("archscore_architectures_total", 'outcome!~"ok|degenerate|non_finite"'), "errors"),
            bad=(0.05, 0.2),
            decimals=1,
        ),
        number(
            "Workers ready",
            "short",
            "Worker processes that compute, or could. With none, requests wait and health says NOT_SERVING: tell the "
            "operators.",
            Query(f"sum({metric('archscore_workers_ready')})", "workers"),
        ),
    ]


def _throughput() -> list[Panel]:
    return [
        series(
            "Architectures by outcome",
            "suffix: /s",
            "What became of the architectures that were asked for. Much of invalid or too_large: look at what your "
            "search proposes. expired: longer deadlines, or less at a time. refused: the queue is full. failed: tell "
            "the operators.",
            Query(total("archscore_architectures_total", "outcome"), "{{outcome}}"),
            width=12,
            stacked=True,
        ),
        series(
            "Scores by proxy",
            "suffix: /s",
            "Scores given, from the store or computed. If a proxy is missing that you asked for, look for errors in "
            "the panel by outcome. A dear proxy slows all others that share its workers: docs/proxies.md has what "
            "each costs.",
            Query(total("archscore_scores_total", "proxy", matchers=[_SCORED]), "{{proxy}}"),
            width=12,
            stacked=True,
        ),
        series(
            "Architectures by search space",
            "suffix: /s",
            "What is asked for, whatever comes of it. A ZenNAS network may take as long as many NAS-Bench-201 cells: "
            "if throughput fell, see whether the mix has changed.",
            Query(total("archscore_architectures_total", "space"), "{{space}}"),
            stacked=True,
        ),
        series(
            "Architectures by client",
            "suffix: /s",
            "Who asks; those without a token or certificate are `anonymous`. Clients take turns, so one that asks for"
            " much does not keep others waiting for long. If one does anyway, have it ask with PRIORITY_BULK.",
            Query(total("archscore_client_architectures_total", "client"), "{{client}}"),
            stacked=True,
        ),
        series(
            "Calls by method",
            "reqps",
            "Many calls of ScoreArchitecture: ask for many architectures in one call of ScoreArchitectures instead, "
            "which costs the server less.",
            Query(total("archscore_rpcs_total", "method"), "{{method}}"),
            stacked=True,
        ),
    ]


def _latency() -> list[Panel]:
    def durations(method: str) -> list[Query]:
        matchers = [f'method="{_SERVICE}/{method}"', 'code="OK"']
        return [
            Query(quantile(fraction, "archscore_rpc_seconds", matchers=matchers), f"p{fraction * 100:g}")
            for fraction in (0.5, 0.95, 0.99)
        ]

    return [
        series(
            "One architecture",
            "s",
            "How long successful calls of ScoreArchitecture take, waiting included. If it is long: the wait for a "
            "worker says how much of it is the queue. Ask with PRIORITY_INTERACTIVE if somebody waits for the answer.",
            *durations("ScoreArchitecture"),
        ),
        series(
            "Many architectures",
            "s",
            "How long successful calls of ScoreArchitectures take until their last result. It goes with the number of"
            " architectures in a call: results come as they are ready, so a long one is no harm unless its deadline "
            "is near.",
            *durations("ScoreArchitectures"),
        ),
        series(
            "Wait for a worker, p95, by priority",
            "s",
            "How long architectures wait until they are computed. bulk waits while there is other work, and is meant "
            "to. If interactive waits, batches take long: see the page for operators.",
            Query(quantile(0.95, "archscore_queue_wait_seconds", "priority"), "{{priority}}"),
        ),
    ]


def _queue() -> list[Panel]:
    return [
        series(
            "Waiting, by priority",
            "short",
            "Architectures that wait for a worker. At the limit (`--max-queued`, on the page for operators) requests "
            "are refused with QUEUE_FULL. If it never empties, ask for less or add servers.",
            Query(f"sum by (priority) ({metric('archscore_queued_architectures')})", "{{priority}}"),
            stacked=True,
        ),
        series(
            "Refused",
            "suffix: /s",
            "Architectures that the full queue, or a server that stops, had no place for. Clients are told when to "
            "come back, and ours do. If it lasts, send less at a time.",
            Query(total("archscore_architectures_total", matchers=['outcome="refused"']), "refused"),
        ),
        series(
            "Given up",
            "suffix: /s",
            "Architectures that left the queue because nobody waited for them any longer: the deadline passed, or the"
            " client left. Much of expired: give longer deadlines, or ask for less at a time.",
            Query(total("archscore_dropped_total", "reason"), "{{reason}}"),
        ),
    ]


def _cache() -> list[Panel]:
    return [
        series(
            "Scores looked up",
            "suffix: /s",
            "Scores that requests asked for: those that were in the store (hit), and those that had to be computed "
            "(miss). Only misses cost time of the devices. If there are no hits where there should be, compare the "
            "fingerprints of the answers.",
            Query(total("archscore_store_scores_total", "result", matchers=[_LOOKED_UP]), "{{result}}"),
            stacked=True,
        ),
        series(
            "Share from the store",
            "percentunit",
            "Hits among the scores that were looked up. It falls when a config, a seed, a proxy's version or torch "
            "changes: all are part of the key. If it falls by itself, the store may be full (`--max-stored-scores`): "
            "see its size on the page for operators.",
            Query(_FROM_STORE, "hits"),
            most=1,
        ),
        series(
            "Merged",
            "suffix: /s",
            "Architectures that were being computed already when they were asked for, and so cost nothing. Nothing to"
            " do; if it is high, several clients search the same ground.",
            Query(total("archscore_merged_total"), "merged"),
        ),
    ]
