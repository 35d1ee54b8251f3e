"""The page for who runs servers: workers, batches, devices, errors, saturation, store."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards._panels import Panel, Query, metric, number, page, quantile, rate, series, share, total

#: Codes that are not the doing of clients.
_OURS = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE"'


def dashboard() -> Dashboard:
    """The page."""
    return page(
        "archscore-operators",
        "archscore: operators",
        "What servers do: workers, devices, errors, and how near they are to their limits.",
        [
            ("Now", _now()),
            ("Saturation", _saturation()),
            ("Workers", _workers()),
            ("Batches", _batches()),
            ("Devices", _devices()),
            ("Errors", _errors()),
            ("Store", _store()),
            ("Front end", _front_end()),
        ],
    )


def _now() -> list[Panel]:
    ready, workers = metric("archscore_workers_ready"), metric("archscore_workers")
    return [
        number(
            "Workers ready",
            "percentunit",
            "Workers that compute, or could. Below 100 % some are being started, which takes seconds; if it stays, "
            "the log says why they die. At 0 nothing is scored.",
            Query(f"sum({ready}) / sum({workers})", "ready"),
            bad=(1, 0.5),
            decimals=0,
        ),
        number(
            "Queue in use",
            "percentunit",
            "Of the server that has the fullest queue. At 100 % it refuses requests with QUEUE_FULL. Add servers or "
            "devices; a higher `--max-queued` only makes waits longer.",
            Query(_queue_in_use(), "in use"),
            bad=(0.5, 0.9),
            decimals=0,
        ),
        number(
            "Calls that failed here",
            "percentunit",
            "Share of calls that ended with INTERNAL, UNKNOWN, DATA_LOSS or UNAVAILABLE, which are not the doing of "
            "clients. The log has each INTERNAL with its request id; UNAVAILABLE is usual while servers start or "
            "stop.",
            Query(share("archscore_rpcs_total", _OURS), "failed"),
            bad=(0.001, 0.01),
            decimals=2,
        ),
        number(
            "Workers lost",
            "short",
            "In the last hour. One now and then is bad luck; several are an architecture that kills its worker, too "
            "little memory or a broken device: the log has the reason of each.",
            Query(f"sum(increase({metric('archscore_workers_lost_total')}[1h]))", "lost"),
            bad=(1, 5),
            decimals=0,
        ),
        number(
            "Store usable",
            "bool_yes_no",
            "No: some server scores without its store and computes again what it had. docs/store.md has the causes: "
            "disk full, no permission, locked, corrupt.",
            Query(f"min({metric('archscore_store_up')})", "usable"),
            bad=(1, 1),
        ),
        number(
            "Token file in force",
            "bool_yes_no",
            "No: some server cannot use its token file, and goes on with the tokens of before; revoked ones still "
            "work. Its log says what is wrong with the file. Yes also where no tokens are wanted.",
            Query(f"min(1 - {metric('archscore_tokens_stale')})", "in force"),
            bad=(1, 1),
        ),
    ]


def _saturation() -> list[Panel]:
    return [
        series(
            "Waiting, and the limit",
            "short",
            "Architectures in the queue of each server, and how many it takes (`--max-queued`). If it is near the "
            "limit for long, there is more work than the devices can do: add some, or have bulk work sent at other "
            "times.",
            Query(f"sum by (instance) ({metric('archscore_queued_architectures')})", "{{instance}}"),
            Query(f"max({metric('archscore_queue_limit_architectures')})", "limit"),
        ),
        series(
            "Workers at work",
            "percentunit",
            "Share of the workers that have a batch. At 100 % the devices are the limit. If it is"
            " low while architectures wait, batches are held up: see the restarts of workers, and whether "
            "`--batch-delay` is long.",
            Query(_at_work(), "at work"),
            most=1,
        ),
        series(
            "Wait for a worker",
            "s",
            "How long architectures wait until their first batch starts. It grows before anything is refused: time to"
            " add capacity is when p50 is more than users like to wait.",
            *(
                Query(quantile(fraction, "archscore_queue_wait_seconds"), f"p{fraction * 100:g}")
                for fraction in (0.5, 0.95, 0.99)
            ),
        ),
    ]


def _workers() -> list[Panel]:
    return [
        series(
            "Workers by state",
            "short",
            "A worker that starts loads torch, which takes seconds. If one is starting for ever, it dies each time: "
            "see the log. If all are idle while architectures wait, the front end is the limit: see its CPU.",
            Query(f"sum by (state) ({metric('archscore_workers')})", "{{state}}"),
            stacked=True,
        ),
        series(
            "Workers lost, by reason",
            "short",
            "In the last five minutes. died: out of memory (see the kernel's log) or a crash. hung: nothing was heard"
            " for `--heartbeat-timeout`, or a batch took too long. device_error: the GPU had an error; if that "
            "repeats, see nvidia-smi and replace it.",
            Query(f"sum by (reason) (increase({metric('archscore_workers_lost_total')}[5m]))", "{{reason}}"),
        ),
        series(
            "Architectures run again, by reason",
            "suffix: /s",
            "Work that is done twice. worker_lost: see the panel beside. batch_failed: an evaluation raised, and the "
            "others of its batch are run without it; the log has the traceback.",
            Query(total("archscore_retried_total", "reason"), "{{reason}}"),
        ),
    ]


def _batches() -> list[Panel]:
    size = f"{total('archscore_batch_size_sum', 'reason')} / {total('archscore_batch_size_count', 'reason')}"
    return [
        series(
            "Compute by pass",
            "percentunit",
            "Where the time of the workers goes: 100 % is one worker. A batch counts when it ends, so long ones are "
            "peaks. What is dear follows from the proxies that are asked for (docs/proxies.md). Much of `other` is "
            "building networks: larger batches help on a GPU.",
            Query(total("archscore_compute_seconds_total", "pass"), "{{pass}}"),
            stacked=True,
        ),
        series(
            "Architectures in a batch",
            "short",
            "Mean size by why the batch started. Small ones on a GPU under load mean that requests differ in config "
            "or proxies, which cannot share a batch, or that `--max-batch` is low. On a CPU a batch of one is usual.",
            Query(size, "{{reason}}"),
        ),
        series(
            "Time of a batch",
            "s",
            "How long batches had a worker. If p99 nears `--batch-timeout`, workers may be taken to hang that do not:"
            " raise it, or lower `--max-batch`. It goes with the config that clients ask for.",
            *(
                Query(quantile(fraction, "archscore_batch_seconds"), f"p{fraction * 100:g}")
                for fraction in (0.5, 0.95, 0.99)
            ),
        ),
    ]


def _devices() -> list[Panel]:
    memory = "archscore_worker_memory_bytes"
    return [
        series(
            "Memory of devices",
            "bytes",
            "In use by whomever, and what there is; `cpu` is the memory of the machine or container. Near the top "
            "workers are killed, or large networks refused: lower `--max-batch`, `--limit-bytes` or `--workers`, or "
            "move other work away.",
            Query(f"{metric('archscore_device_memory_used_bytes')}", "{{device}} used"),
            Query(f"{metric('archscore_device_memory_size_bytes')}", "{{device}} size"),
            width=12,
        ),
        series(
            "Memory of workers",
            "bytes",
            "Resident memory of each worker process. It follows the largest networks that it has had. If it grows for"
            " hours on the same work, that is a leak: restart the server, and tell us.",
            Query(metric(memory, 'kind="resident"'), "worker {{worker}}"),
            width=12,
        ),
        series(
            "Memory of tensors",
            "bytes",
            "On GPUs, what torch's allocator has given out and what it holds. Much more reserved than allocated is "
            "fragmentation: set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True. Empty without a GPU.",
            Query(metric(memory, 'kind="allocated"'), "worker {{worker}} allocated"),
            Query(metric(memory, 'kind="reserved"'), "worker {{worker}} reserved"),
            width=12,
        ),
        series(
            "GPU at work",
            "percentunit",
            "Share of time in which a GPU ran anything, as NVML has it. If it is low while architectures wait: larger"
            " batches (`--max-batch`), or a second worker. Empty without a GPU.",
            Query(metric("archscore_device_utilization_ratio"), "{{device}}"),
            width=12,
            most=1,
        ),
    ]


def _errors() -> list[Panel]:
    return [
        series(
            "Calls that failed, by code",
            "reqps",
            "docs/clients.md has what each code means. INTERNAL: the log has it under its request id. "
            "UNAUTHENTICATED: somebody has no token, or a revoked one. RESOURCE_EXHAUSTED: the queue is full. "
            "UNAVAILABLE: a server starts or stops.",
            Query(total("archscore_rpcs_total", "code", matchers=['code!="OK"']), "{{code}}"),
            width=12,
            stacked=True,
        ),
        series(
            "Architectures without scores, by outcome",
            "suffix: /s",
            "failed: the engine raised, or the architecture killed workers: see the log. too_large: over a limit of "
            "docs/limits.md. invalid: the clients' doing. expired and refused: see saturation, above.",
            Query(
                total("archscore_architectures_total", "outcome", matchers=['outcome!~"ok|degenerate|non_finite"']),
                "{{outcome}}",
            ),
            width=12,
            stacked=True,
        ),
    ]


def _store() -> list[Panel]:
    return [
        series(
            "Scores in the store",
            "short",
            "At `--max-stored-scores` the least recently used go. If hits suffer, raise that limit: docs/store.md.",
            Query(metric("archscore_store_entries"), "{{instance}}"),
        ),
        series(
            "Size of the store's file",
            "bytes",
            "With its log; 0 where scores are kept in memory. See that the volume has room for twice as much, and "
            "lower `--max-stored-scores` if not.",
            Query(metric("archscore_store_file_bytes"), "{{instance}}"),
        ),
        series(
            "Writes",
            "suffix: /s",
            "Scores that were written, or given up (dropped) because the file could not take them; and transactions "
            "that failed. Any failure: see the log, disk space and permissions. Requests do not suffer, but scores "
            "are computed again.",
            Query(
                total("archscore_store_scores_total", "result", matchers=['result=~"written|dropped"']), "{{result}}"
            ),
            Query(total("archscore_store_write_failures_total"), "failed transactions"),
        ),
    ]


def _front_end() -> list[Panel]:
    return [
        series(
            "CPU of the front end",
            "percentunit",
            "100 % is one core, and more than that it cannot use for long. Near it requests are slow whatever the "
            "workers do: send more architectures in a request, or run a second server.",
            Query(rate("archscore_process_cpu_seconds_total"), "{{instance}}"),
        ),
        series(
            "Memory of the front end",
            "bytes",
            "It keeps the queue, caches that are bounded and, without `--store`, all scores. If it grows without end,"
            " that is a leak: restart the server, and tell us.",
            Query(metric("archscore_process_resident_memory_bytes"), "{{instance}}"),
        ),
        series(
            "Servers by version",
            "short",
            "What runs. Two lines are an upgrade in progress, or one that was left half done. `torch` and device are "
            "empty until the workers are warm.",
            Query(
                f"count by (version, torch, device) ({metric('archscore_build_info')})",
                "{{version}}, torch {{torch}}, {{device}}",
            ),
            stacked=True,
        ),
    ]


def _at_work() -> str:
    busy = metric("archscore_workers", 'state="busy"')
    return f"sum(avg_over_time({busy}[$__rate_interval])) / sum({metric('archscore_workers')})"


def _queue_in_use() -> str:
    queued = f"sum by (instance) ({metric('archscore_queued_architectures')})"
    return f"max({queued} / sum by (instance) ({metric('archscore_queue_limit_architectures')}))"
