"""The subcommands, one a module with a `COMMAND` (dashes of its name are underscores)."""

#: What the help says of each: here, as what a subcommand needs takes seconds to import.
SUMMARIES = {
    "bench": "throughput against the bare engine and sentence-transformers",
    "client": "vectors a second and processor time of clients, with an encoder that costs nothing",
    "corpus": "embed-corpus on 100,000 short texts against the encoder's bare rate",
    "export": "export of a full-size random checkpoint: time, peak memory, bytes",
    "faults": "kill, corrupt and restart a live local server under load; what callers see",
    "gateway-overhead": "what the gateway costs beside raw gRPC, with an instant encoder",
    "gpu": "random weights of SFR's shape on one GPU: ceilings, parity, engines, peers, served",
    "latency": "latency of single requests by length, measured by perf_analyzer",
    "modelopt": "our calibration against nvidia-modelopt's, in what each makes of fp32's vectors",
    "overload": "beyond the sustained load: goodput, refusals, interactive requests beside bulk",
    "peers": "against sentence-transformers, optimum, OpenVINO, vLLM, Infinity and llama.cpp",
    "plan": "which GPUs run a model, at which precision, how fast, at what cost",
    "plans": "size, build time and memory of TensorRT-RTX plans by precision; needs no GPU",
    "precisions": "size, memory, speed and quality of each precision",
    "quality": "retrieval and similarity figures of a served model, fp32 against each precision",
    "report": "one self-contained page with the tables and plots of results",
    "soak": (
        "concurrent clients with random cancels and deadlines, or mixed traffic for long: "
        "every answer right, none lost"
    ),
    "sweep": "latency and throughput against load, measured by perf_analyzer",
}
