"""Combinations of the chart's values: all of them, and few in which every two choices meet."""

import itertools

DIMENSIONS = {
    "gpu": {
        "whole": {},
        "mig": {"server": {"gpu": {"kind": "mig", "migProfile": "3g.40gb"}}},
        "shared": {"server": {"gpu": {"kind": "shared"}}},
        "none": {"server": {"gpu": {"kind": "none"}, "tolerations": []}},
    },
    "repository": {
        "pvc": {"repository": {"kind": "pvc", "pvc": {"claimName": "models"}}},
        "oci": {"repository": {"kind": "oci", "oci": {"image": "registry.example/models:1"}}},
        "s3": {"repository": {"kind": "s3", "s3": {"uri": "s3://models/x"}}},
        "exporter": {"repository": {"kind": "exporter", "exporter": {"claimName": "exported"}}},
        "exporter-claim": {
            "repository": {
                "kind": "exporter",
                "exporter": {"gpuType": "NVIDIA-L40S", "hubTokenSecret": "hub"},
            }
        },
    },
    "gateway": {
        "off": {"gateway": {"enabled": False}},
        "keys": {"gateway": {"apiKeysSecret": "keys"}},
        "anonymous": {"gateway": {"allowAnonymous": True}},
        "ingress": {
            "gateway": {
                "apiKeysSecret": "keys",
                "ingress": {"enabled": True, "host": "embed.example.org", "tlsSecret": "ingress"},
            }
        },
        "route": {
            "gateway": {
                "apiKeysSecret": "keys",
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
            }
        },
    },
    "autoscaling": {
        "none": {},
        "keda": {"autoscaling": {"kind": "keda"}},
        "hpa": {"autoscaling": {"kind": "hpa"}},
    },
    "tls": {
        "none": {},
        "one-way": {
            "server": {"tlsSecret": "server-tls", "tlsVerifyClients": False},
            "gateway": {"tlsSecret": "gateway-tls"},
        },
        "both": {
            "server": {"tlsSecret": "server-tls"},
            "gateway": {
                "tlsSecret": "gateway-tls",
                "upstreamTls": {"caSecret": "ca", "clientSecret": "client-tls"},
            },
        },
    },
    "monitoring": {
        "off": {},
        "on": {
            "monitoring": {
                "podMonitor": {"enabled": True},
                "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True},
            }
        },
    },
    "limits": {
        "default": {},
        "off": {
            "networkPolicy": {"enabled": False},
            "server": {"podDisruptionBudget": {"enabled": False},
                       "topologySpread": {"enabled": False}},
            "gateway": {"podDisruptionBudget": {"enabled": False}},
            "serviceAccount": {"create": False},
        },
    },
}  # fmt: skip


def all_combinations():
    """Every combination, as a dict from dimension to choice."""
    for choices in itertools.product(*DIMENSIONS.values()):
        yield dict(zip(DIMENSIONS, choices, strict=True))


def main_combinations():
    """Every combination of GPU, models' source, gateway and autoscaling.

    The choices of the other dimensions take turns.
    """
    main = ("gpu", "repository", "gateway", "autoscaling")
    others = [name for name in DIMENSIONS if name not in main]
    turns = itertools.cycle(itertools.product(*(DIMENSIONS[name] for name in others)))
    for choices in itertools.product(*(DIMENSIONS[name] for name in main)):
        yield dict(zip(main, choices, strict=True)) | dict(zip(others, next(turns), strict=True))


def pairwise_combinations():
    """Few combinations in which each two choices of different dimensions come together once.

    Greedy and deterministic: each takes the most pairs that none before it has.
    """
    missing = set().union(*(pairs_of(combination) for combination in all_combinations()))
    candidates = list(all_combinations())
    while missing:
        best = max(candidates, key=lambda combination: len(pairs_of(combination) & missing))
        missing -= pairs_of(best)
        yield best


def pairs_of(combination):
    """Its pairs of choices."""
    return set(itertools.combinations(combination.items(), 2))


def values_of(combination):
    """Values of the chart for a combination."""
    values = {}
    for dimension, choice in combination.items():
        _merge(values, DIMENSIONS[dimension][choice])
    return values


def _merge(into, values):
    for name, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        elif isinstance(value, dict):
            into[name] = {}
            _merge(into[name], value)
        else:
            into[name] = value
