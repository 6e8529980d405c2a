"""Every command of docs/operations.md and docs/runbooks.md, held against the program it is for."""

import math
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from encoder_settings import EncoderSettings, InvalidSettings

import lasttoken.cli
import lasttoken_export.cli
import lasttoken_perf.cli
from docker.helm_program import default_cache, helm_program
from documented import code_blocks
from lasttoken.corpus.plan import PART_VECTOR_BYTES

ROOT = Path(__file__).parents[2]
RELEASE = ["--set", "repository.pvc.claimName=x", "--set", "gateway.apiKeysSecret=x"]
MAINS = {
    "lasttoken": lasttoken.cli.main,
    "lasttoken-export": lasttoken_export.cli.main,
    "lasttoken-perf": lasttoken_perf.cli.main,
}


def commands_of(page):
    """Commands of the page's sh blocks and the inline ones that begin with a program of ours."""
    commands = []
    for _, code in code_blocks(page, {"sh"}):
        commands += [shlex.split(line) for line in code.replace("\\\n", " ").splitlines() if line]
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    programs = "|".join([*MAINS, "kubectl", "helm"])
    inline = re.findall(rf"`((?:{programs}) [^`]+)`", text)
    return commands + [shlex.split(words) for words in inline]


COMMANDS = [
    (page, words) for page in ("operations.md", "runbooks.md") for words in commands_of(page)
]
IN_PODS = [words[words.index("--") + 1 :] for _, words in COMMANDS if "--" in words]
"""What `kubectl exec` runs."""


def of(program):
    found = [words for _, words in COMMANDS if words[0] == program]
    return pytest.mark.parametrize("words", found, ids=lambda words: " ".join(words)[:70])


@pytest.fixture(scope="module")
def helm():
    return helm_program(default_cache())


def render(helm, words, *more):
    command = [helm, "template", *words, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def objects(helm):
    """Names of the objects of the releases `sfr` and `sfr2`, as kubectl spells them."""
    return {
        f"{d['kind'].lower()}/{d['metadata']['name']}"
        for release in ("sfr", "sfr2")
        for d in render(helm, [release, "docker/helm/lasttoken"], *RELEASE)
    }


def test_every_command_is_for_a_program_that_is_looked_at():
    known = {*MAINS, "helm", "kubectl"}
    assert {words[0] for _, words in COMMANDS} == known
    assert len(COMMANDS) > 20


class Parsed(Exception):
    """Ends a command after its arguments have been read."""


@pytest.mark.parametrize(
    "words",
    [w for w in (*(w for _, w in COMMANDS), *IN_PODS) if w[0] in MAINS and len(w) > 2],
    ids=lambda w: " ".join(w)[:70],
)
def test_our_own_commands_parse(words, monkeypatch):
    """By the programs' own parsers; what they would do then is stopped."""
    import argparse

    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *arguments, **keywords):
        parse(parser, *arguments, **keywords)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed):
        MAINS[words[0]](words[1:])


@of("helm")
def test_the_chart_takes_the_values_of_the_commands(words, helm):
    action = words[1]
    assert action in ("upgrade", "rollback", "uninstall")
    if action != "upgrade":
        assert words[2] == "sfr"
        assert words[3:] == ["--namespace", "embeddings"]
        return
    arguments = [word for word in words[2:] if word not in ("--install", "--reuse-values")]
    documents = render(helm, arguments, *(RELEASE if "--reuse-values" in words else ()))
    text = yaml.safe_dump_all(documents)
    for word in words:
        name, equals, value = word.partition("=")
        if equals and not value.isdigit() and value not in ("true", "pvc"):
            assert value in text, f"{name} has no effect"


@of("kubectl")
def test_kubectl_names_objects_that_the_chart_makes(words, objects):
    named = [w for w in words if re.match(r"(deployment|service|pod|job)/", w)]
    assert set(named) <= objects
    verbs = ("create", "get", "logs", "delete", "rollout", "port-forward", "describe", "exec")
    assert any(verb in words for verb in verbs)


def test_the_planners_output_is_the_one_shown(capsys):
    page = (ROOT / "docs" / "operations.md").read_text()
    [(code, shown)] = re.findall(
        r"```sh\n(lasttoken-perf plan.*?)```\n\n```text\n(.*?)```", page, re.S
    )
    words = shlex.split(code.replace("\\\n", " "))
    assert lasttoken_perf.cli.main(words[1:]) == 0
    assert capsys.readouterr().out.strip() == shown.strip()


def test_the_arithmetic_of_the_corpus_is_right():
    page = (ROOT / "docs" / "operations.md").read_text()
    tokens = 1e9 * 256
    for rate, hours in ((11_872, "5,990"), (32_436, "2,192")):
        assert f"{rate:,}" in page
        assert f"{round(tokens / rate / 3600):,}" == hours
        assert f"| {hours} |" in page
    weeks = tokens / 32_436 / 3600 / 168
    assert (f"{weeks:.1f}", f"{weeks / 0.9:.1f}") == ("13.0", "14.5")
    assert "13.0; with 90 % of the time in use 14.5, so 15" in page
    rows = PART_VECTOR_BYTES // (4096 * 2)
    assert (1e9 * 4096 * 4 / 1e12, f"{rows:,}") == (16.384, "16,384")
    assert f"| {math.ceil(1e9 / rows):,} |" in page
    vectors_per_s = 15 * 32_436 / 256
    assert f"{vectors_per_s:,.0f} vectors/s" in page
    assert f"{vectors_per_s * 16_384 / 1e6:.0f} MB/s" in page
    assert f"30 x {rows:,} texts, {30 * rows / vectors_per_s / 60:.0f} minutes" in page


def test_the_guide_has_every_alert_with_its_severity():
    rules = yaml.safe_load((ROOT / "docker/helm/lasttoken/files/alerts.yml").read_text())
    alerts = {r["alert"]: r["labels"]["severity"] for g in rules["groups"] for r in g["rules"]}
    page = (ROOT / "docs" / "operations.md").read_text()
    assert dict(re.findall(r"^\| (Lasttoken\w+) \| (\w+) \|", page, re.M)) == alerts


def test_servers_are_asked_where_the_network_policy_lets_them_be(helm, objects):
    """From a pod of the gateway: only it may call Triton unless others are named."""
    page = (ROOT / "docs" / "operations.md").read_text()
    commands = [words for words in commands_of("operations.md") if "-grpc." in " ".join(words)]
    assert commands
    for words in commands:
        if "embed-corpus" not in words:
            assert words[words.index("exec") + 1].endswith("-gateway"), words
    policies = [d for d in render(helm, ["sfr2", "docker/helm/lasttoken"], *RELEASE)
                if d["kind"] == "NetworkPolicy"]  # fmt: skip
    [server] = [d for d in policies if d["metadata"]["name"].endswith("-server")]
    [grpc] = [rule for rule in server["spec"]["ingress"] if {"port": "grpc"} in rule["ports"]]
    [source] = grpc["from"]
    assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert page.count("networkPolicy.grpcFrom") >= 2  # also for the workers of a corpus


def test_the_runbook_of_a_full_gpu_changes_what_the_encoder_takes():
    """By the encoder's own reading of the file: the first advice works, `alone` does not."""
    config = ROOT / "model_repository" / "sfr_embedding_mistral_encoder" / "config.pbtxt"
    found = re.findall(r'key: "(\w+)" value \{ string_value: "(.*?)"', config.read_text())
    given = {name: {"string_value": value} for name, value in found}

    def settings(**changes):
        changed = {name: {"string_value": str(value)} for name, value in changes.items()}
        return EncoderSettings.from_parameters(given | changed)

    usual = settings()
    lower = settings(preferred_batch_tokens=usual.preferred_batch_tokens // 2)
    assert lower.preferred_batch_tokens < usual.preferred_batch_tokens
    with pytest.raises(InvalidSettings, match="max_batch_tokens"):
        settings(max_batch_tokens=max(usual.max_length, usual.preferred_batch_tokens) - 1)
    page = (ROOT / "docs" / "runbooks.md").read_text()
    section = page.partition("## LasttokenGpuMemoryFull\n")[2].partition("\n## ")[0]
    assert section.index("`preferred_batch_tokens`") < section.index("`max_batch_tokens`")
    assert "rollout restart deployment/sfr-lasttoken-server" in section
    assert "export again" not in section
