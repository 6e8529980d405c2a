"""Every field that a row of a result may have (see `lasttoken_perf.results`), and its meaning."""

from __future__ import annotations

FIELDS: dict[str, str] = {
    # What was measured, and under which load.
    "model": "catalogue name, where a result holds several models",
    "subject": "who answered: 'lasttoken server', 'bare engine', a peer's name",
    "version": "the subject's version",
    "device": "processor or GPU that computed",
    "precision": "of the weights: fp32, fp16, bf16, int8, q8_0 ...",
    "distribution": "of the lengths: queries, passages, documents, mixture",
    "load": "'concurrency' (closed loop), 'request_rate' (open loop), 'corpus', 'single', 'mixed';"
    " of the GPU suite also 'ceiling', 'parity' and 'export'",
    "concurrency": "requests at a time",
    "request_rate_per_s": "requests a second that were offered",
    "offered_texts_per_s": "texts offered a second, where the rate of another row decides it",
    "texts_per_request": "texts that one request carries",
    "service_class": "interactive or bulk",
    "dimensions": "elements of a vector, where a result holds several sizes",
    "repeat": "number of the repeat, from 1",
    "variant": "setting that was varied",
    # Throughput.
    "seconds": "wall time of the measurement",
    "requests": "requests answered",
    "texts_per_s": "texts answered a second",
    "tokens_per_s": "real tokens (no padding) answered a second",
    "goodput_texts_per_s": "texts answered a second within the latency objective",
    "objective_ms": "latency objective",
    "refused": "requests refused as overloaded",
    "failed": "requests that failed otherwise",
    "sent_late": "open loop: requests sent later than scheduled",
    # Latency as the client sees it.
    "mean_ms": "mean latency",
    "p50_ms": "median latency",
    "p90_ms": "90th percentile",
    "p95_ms": "95th percentile",
    "p99_ms": "99th percentile",
    "max_ms": "largest latency",
    "refused_p99_ms": "99th percentile of the time until a refusal",
    # Where the server spent it, mean a request; the encoder's are the scheduler's own figures.
    "tokenizer_queue_ms": "waiting for the tokenizer",
    "tokenizer_compute_ms": "in the tokenizer, transfers included",
    "encoder_transfer_ms": "from the tokenizer into the scheduler's queue",
    "encoder_queue_ms": "a row waiting in the scheduler's queue",
    "encoder_engine_ms": "a row's batch in the engine",
    "encoder_answer_ms": "from the engine's end until the answer was handed to Triton",
    "server_ms": "in the server, by Triton's own clock; of the same requests as the parts above,"
    " each of which has a clock of its own, so that they overlap a little",
    "outside_ms": "the mean latency less the parts: gRPC, Triton's core, the client. The mean is"
    " over the measurement windows, the parts over the whole call, of a closed loop with its"
    " warm-up; where that puts it below zero it says nothing",
    # How full the batches were.
    "batches": "batches of the engine",
    "tokens_per_batch": "real tokens a batch",
    "rows_per_batch": "texts a batch",
    "batch_ms": "mean time of a batch in the engine",
    "real_over_computed_tokens": "1.0: nothing was padded; more: texts of a batch, or of"
    " those before, begin alike",
    "real_over_computed_cells": "attention cells within texts over attention cells computed",
    "engine_busy": "time in which the encoder computed anything over wall time",
    # Resources.
    "cpu_cores": "processor time of the subject over wall time, in cores",
    "other_cpu_cores": "processor time of all other programs on the same cores over wall time",
    "cpu_s_per_1000_texts": "processor seconds of the client for a thousand texts",
    "gateway_cpu_s_per_1000_texts": "processor seconds of the gateway for a thousand texts",
    "rss_bytes": "largest resident memory of the subject and its children",
    "gpu_power_w": "mean power of the GPU",
    "gpu_memory_bytes": "largest memory in use on the GPU",
    "gpu_utilisation": "share of the time that the GPU ran a kernel",
    # What a precision costs, against fp32 on held-out text.
    "file_bytes": "graph and weights on disk",
    "graph_sha256": "SHA-256 of the SHA-256s of both, in order of name",
    "quality_taken_at": "when an earlier run took the figures below, of the same bytes",
    "embedding_bytes": "of these the token embedding",
    "mean_cosine": "mean cosine of a text's vector to its fp32 vector",
    "p1_cosine": "first percentile of these cosines",
    "minimum_cosine": "lowest of these cosines",
    "top10_overlap": "share of a query's ten best documents that fp32 finds too",
    "ndcg_at_10": "nDCG@10 on the retrieval set",
    "ndcg_change": "relative change of it from fp32",
    "ndcg_change_error": "standard error of the change",
    "bitwise_batch_invariant": "whether vectors are the same, bit by bit, in every batch",
    "task": "MTEB's name of a task",
    "metric": "what MTEB takes as the task's main score",
    "main_score": "that score, 0 to 1",
    "main_score_change": "relative change of it from fp32",
    "similarity_spearman": "rank correlation of pairs' similarities with those of fp32",
    # Against what the device can do at best.
    "flops_per_s": "floating-point operations of the model a second, padding not counted",
    "bytes_per_s": "bytes read and written a second",
    "fraction_of_ceiling": "flops_per_s over that of the model's own matrix products alone",
    "floor_ms": "time of reading every weight that a single text needs, at the memory's speed",
    "times_floor": "p50_ms over floor_ms",
    # Plans.
    "layers": "decoder layers of the graph",
    "weight_bytes": "weights of the graph, of all types",
    "plan_bytes": "size of the plan",
    # Judgement.
    "stable": "whether perf_analyzer found the point stable",
    "discarded": "why the row counts for nothing; absent when it counts",
}
"""Every field that a row may have, and what it means."""

REMAINDERS = ("outside_ms",)
"""Figures that are a whole less its parts: below zero they say nothing, and tables show a dash."""

NUMBERS_OF_A_POINT = (
    "concurrency",
    "request_rate_per_s",
    "texts_per_request",
    "dimensions",
    "objective_ms",
    "layers",
)
"""Numbers that say what a row is about; `summarise` keeps them as they are."""
