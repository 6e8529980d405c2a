"""Asks a server of this machine for one embedding: is it alive, not only ready?

    probe.py MODEL [--url http://127.0.0.1:8000] [--timeout SECONDS]

Readiness stays true when the process of a Python model has died, so the probe embeds a short text.
It passes whatever waits in the encoder; a server that refuses because it is overloaded, or that
says that the probe's time passed in its queue, is alive. Only the standard library is used: it runs
in every image, by Docker's health check and by Kubernetes.

Exit codes: 0 alive, 1 not, 2 wrong usage.
"""

import argparse
import json
import math
import sys
import urllib.error
import urllib.request

TEXT = "probe"
ALIVE = ("overloaded:", "deadline exceeded:")
"""First words of the encoder's refusals that only a working encoder gives."""
UNKNOWN_CLASS = "service_class is"
"""In the refusal of an encoder that was exported before there were probes."""


def probe(url, model, timeout_s, service_class="probe"):
    """Return None when the model answers, or why it does not."""
    body = {
        "inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}],
        # The server gives up a little before the probe does, and says so.
        "parameters": {"timeout": int(0.8 * timeout_s * 1e6), "service_class": service_class},
    }
    request = urllib.request.Request(  # noqa: S310 - the operator's own address
        f"{url}/v2/models/{model}/infer",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            outputs = json.load(answer)["outputs"]
    except urllib.error.HTTPError as error:
        message = error.read().decode(errors="replace")
        if error.code == 503 and any(words in message for words in ALIVE):
            return None
        if UNKNOWN_CLASS in message and service_class == "probe":
            return probe(url, model, timeout_s, "interactive")
        return f"{error.code}: {message[:500]}"
    except (OSError, ValueError, KeyError) as error:
        return f"no answer: {error}"
    vectors = [output["data"] for output in outputs if output["name"] == "EMBEDDING"]
    if len(vectors) != 1 or not all(math.isfinite(number) for number in vectors[0]):
        return "the answer holds no finite EMBEDDING"
    norm = math.sqrt(sum(number * number for number in vectors[0]))
    return None if abs(norm - 1) < 1e-2 else f"the vector has norm {norm}, not 1"


def main():
    """Run the probe; return the exit code."""
    parser = argparse.ArgumentParser(prog="probe.py", description="One real embedding.")
    parser.add_argument("model", help="name of the ensemble")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds")
    options = parser.parse_args()
    reason = probe(options.url, options.model, options.timeout)
    if reason is not None:
        sys.stderr.write(f"{options.model}: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
