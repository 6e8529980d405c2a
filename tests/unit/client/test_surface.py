"""What the package offers, and what importing it costs."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
import types

import pytest

import lasttoken
from lasttoken import (
    AsyncEmbeddingClient,
    ClientOptions,
    EmbeddingClient,
    InvalidInput,
    RetryPolicy,
)


def public_methods(kind: type) -> dict[str, object]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


ITERATING = {"embed_iter", "embed_blocks"}


def test_sync_and_async_have_one_surface():
    sync, asynchronous = public_methods(EmbeddingClient), public_methods(AsyncEmbeddingClient)
    expected = {"embed", "embed_full", "encode", "similarity", "close", "model_info", *ITERATING}
    assert set(sync) == set(asynchronous) >= expected
    for name, method in sync.items():
        if not inspect.isfunction(method):
            continue
        other = asynchronous[name]
        assert inspect.getdoc(method) == inspect.getdoc(other), name
        if method is other:  # pure: the same function
            continue
        signature, other_signature = inspect.signature(method), inspect.signature(other)
        if name in ITERATING:  # takes and gives async iterables besides
            (texts, *rest), (other_texts, *other_rest) = (
                list(s.parameters.values())[1:] for s in (signature, other_signature)
            )
            assert rest == other_rest
            assert other_texts.annotation == f"{texts.annotation} | AsyncIterable[str]"
            assert other_signature.return_annotation == f"Async{signature.return_annotation}"
        else:
            assert signature == other_signature, name
            assert inspect.iscoroutinefunction(other), name
    assert inspect.signature(EmbeddingClient) == inspect.signature(AsyncEmbeddingClient)


def test_the_constructor_takes_the_options_with_their_defaults():
    parameters = inspect.signature(EmbeddingClient).parameters
    assert set(parameters) == set(ClientOptions.__dataclass_fields__)
    assert EmbeddingClient().options == ClientOptions()


def test_all_names_what_the_package_exports():
    for name in lasttoken.__all__:
        assert not isinstance(getattr(lasttoken, name), types.ModuleType)
    exported = {
        name
        for name, value in vars(lasttoken).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }
    assert set(lasttoken.__all__) == exported
    assert lasttoken.__all__ == sorted(lasttoken.__all__)
    assert set(lasttoken.__all__) <= set(dir(lasttoken))
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        _ = lasttoken.embed


def test_no_module_hides_a_name_imported_when_asked_for():
    modules = {module.name for module in pkgutil.iter_modules(lasttoken.__path__)}
    assert not modules & set(lasttoken.__all__)


def imported(statement: str) -> tuple[float, set[str]]:
    """The main thread's CPU seconds of an import, the least of three; all modules then loaded."""
    program = (
        "import sys, time; begin = time.thread_time(); "
        f"{statement}; spent = time.thread_time() - begin; "
        "print(spent, *sys.modules)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        spent, *loaded = done.stdout.split()
        seconds.append(float(spent))
    return min(seconds), set(loaded)


HEAVY = {
    *("asyncio", "grpc", "tritonclient", "google.protobuf", "opentelemetry"),
    *("torch", "pandas", "pyarrow", "lasttoken.local", "lasttoken.cli"),
}


def test_import_is_light():
    """Under half a second; counted in the main thread's CPU time, as the machine may be busy."""
    seconds, loaded = imported("import lasttoken")
    assert seconds < 0.5
    assert not loaded & {*HEAVY, "numpy"}


def test_import_of_the_client_is_light():
    """Half a second beside numpy's own import, which a slow machine spends most of one on."""
    seconds, loaded = imported(
        "import numpy.typing; begin = time.thread_time(); from lasttoken import EmbeddingClient"
    )
    assert seconds < 0.5
    assert "lasttoken.client" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": ""}, "url is ''"),
        ({"url": 5}, "url is 5"),
        ({"url": "http://127.0.0.1:8001"}, "without a scheme"),
        ({"model": ""}, "model is ''"),
        ({"max_texts_per_request": 0}, "max_texts_per_request is 0"),
        ({"max_texts_per_request": True}, "max_texts_per_request is True"),
        ({"max_in_flight": -1}, "max_in_flight is -1"),
        ({"max_in_flight": 1.5}, "max_in_flight is 1.5"),
        ({"on_truncation": "raise"}, "on_truncation is 'raise'"),
    ],
)
def test_bad_options_are_refused(options, words):
    for kind in (EmbeddingClient, AsyncEmbeddingClient, ClientOptions):
        with pytest.raises(InvalidInput, match=words):
            kind(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"initial_s": 0},
        {"max_s": float("inf")},
        {"multiplier": 0.5},
        {"max_attempts": 0},
    ],
)
def test_bad_retry_policies_are_refused(options):
    (name,) = options
    with pytest.raises(InvalidInput, match=name):
        RetryPolicy(**options)


def test_backoff_does_not_overflow():
    assert RetryPolicy(multiplier=1e9).longest_wait_s(10_000) == 2.0


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("localhost", "localhost:8001"),
        ("localhost:9", "localhost:9"),
        ("[::1]", "[::1]:8001"),
        ("[::1]:9", "[::1]:9"),
    ],
)
def test_the_port_defaults_to_tritons(given, used):
    assert EmbeddingClient(given).options.url == used
