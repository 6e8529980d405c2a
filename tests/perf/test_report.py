"""The report page, in a real browser too, and the README's table."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lasttoken_perf.cli import main
from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.report.page import read_results, render_page
from lasttoken_perf.report.plots import peers
from lasttoken_perf.report.readme_table import BEGIN, readme_block, write_readme
from lasttoken_perf.results import make_result

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "docs" / "measurements" / "bench-smollm2-2core.json"


def row(**fields):
    return {"subject": "lasttoken server", "device": "here", "precision": "fp32", **fields}


def sweep():
    rows = [
        row(
            distribution=distribution, load="concurrency", concurrency=n, repeat=repeat,
            texts_per_s=n * 10.0 + repeat, tokens_per_s=n * 500.0 * scale, p50_ms=20.0 * n,
            p99_ms=33.25 * n, tokens_per_batch=100.0 * n,
        )
        for distribution, scale in (("queries", 1), ("mixture", 2))
        for n in (1, 4, 16)
        for repeat in (1, 2, 3)
    ]  # fmt: skip
    rows.append(row(load="request_rate", request_rate_per_s=999.0, discarded="not kept up"))
    return make_result(kind="sweep", what="a <sweep> of loads", rows=rows)


def precisions():
    speed = {"fp32": 1000.0, "int8": 2100.0}
    rows = [row(model="m", precision=p, tokens_per_s=v, repeat=1) for p, v in speed.items()]
    rows += [row(model="m", subject="quality", precision=p, mean_cosine=c)
             for p, c in (("fp32", 1.0), ("int8", 0.9934))]  # fmt: skip
    return make_result(kind="precisions", what="precisions", rows=rows)


def compared():
    result = make_result(kind="peers", what="peers", rows=[row(tokens_per_s=1600.0, repeat=1)])
    ratio = {"min": 5.5, "median": 5.7, "max": 5.9}
    return {
        **result,
        "ratios": {"served / sentence-transformers": ratio},
        "unavailable": {"vLLM": "needs a GPU"},
    }


@pytest.fixture
def page(tmp_path):
    files = []
    for name, result in (("a", sweep()), ("b", precisions()), ("c", compared())):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(result))
    return render_page(read_results([*files, BENCH]), title="figures of a test")


def test_it_stands_alone(page):
    assert not re.search(r"<script|<link|<img|@import|url\(http", page)
    # Names of SVG's namespaces are no addresses that are fetched.
    fetched = re.sub(r'xmlns(:\w+)?="[^"]+"', "", page)
    assert not re.search(r'(src|href)="(?!#)', fetched)


def test_it_shows_every_figure_with_its_provenance(page):
    for shown in (
        "<td>5.7</td><td>5.5</td><td>5.9</td>", "33.25", "needs a GPU", "not kept up",
        "Latency against load",
        "Throughput by length", "Batch fill", "Quality against speed", "0.9934",
        "figures of a test",
        "a &lt;sweep&gt; of loads", "bench-smollm2-2core.json",
    ):  # fmt: skip
        assert shown in page, shown
    assert page.count("<svg") == 5
    assert page.count(">machine<") == 4


def test_lists_of_a_result_without_rows_are_tables(tmp_path):
    """A soak's drifts and what faults did once were on no page."""
    soak = make_result(kind="soak", what="mixed traffic", rows=[], settings={"load": 0.8})
    soak |= {
        "requests": 12,
        "latency": [
            {"kind": "queries", "way": "gRPC", "p99_ms": 812.5, "p99_drift": 0.0312},
            {"kind": "passages", "way": "gateway", "p99_ms": 900.25},
        ],
        "first_wrong": ["wrong vector for 'a'", "another"],
    }
    impact = {"requests": 9, "errors": {"ServerError": 4}}
    faults = make_result(
        kind="faults", what="faults tried", rows=[], model={"name": "smollm2-135m"}
    )
    faults |= {"findings": [{"name": "encoder", "impact": impact, "alerts": ["Down", "Slow"]}]}
    files = [tmp_path / "soak.json", tmp_path / "faults.json"]
    for file, result in zip(files, (soak, faults), strict=True):
        file.write_text(json.dumps(result))
    page = " ".join(render_page(read_results(files), title="t").split())
    for shown in (
        "<h2>Under load for long</h2>", "<h2>Faults on a live server</h2>",
        "<h3>latency</h3>", "<h3>findings</h3>",
        "<th>kind</th><th>way</th><th>p99 ms</th><th>p99 drift</th>",
        "<td>queries</td><td>gRPC</td><td>812.5</td><td>0.0312</td>",
        "<td>passages</td><td>gateway</td><td>900.2</td><td>-</td>",
        "<td>requests</td><td>12</td>", "<td>settings: load</td><td>0.8</td>",
        "<td>first_wrong</td><td>wrong vector for &#39;a&#39;, another</td>",
        "<th>name</th><th>impact: requests</th><th>impact: errors: ServerError</th>",
        "<td>encoder</td><td>9</td><td>4</td><td>Down, Slow</td>",
    ):  # fmt: skip
        assert shown in page, shown
    assert page.count(">command<") == page.count(">taken<") == 2


def test_results_of_one_kind_are_told_apart(tmp_path):
    files = [tmp_path / "peers-before.json", tmp_path / "peers-after.json"]
    for file in files:
        file.write_text(json.dumps(compared()))
    page = render_page(read_results(files), title="t")
    for name in ("peers-before", "peers-after"):
        assert f"<h2>Against other tools: {name}</h2>" in page
    assert "<h2>Against other tools</h2>" in render_page(read_results(files[:1]), title="t")


def test_what_all_rows_share_stands_above_the_table(page):
    assert "All rows: subject lasttoken server" in page
    assert "<th>subject</th>" in page  # where rows differ in it


def test_a_difference_is_no_bar_among_ratios():
    spread = {"min": 1.0, "median": 2.0, "max": 3.0}
    ratios = {"ours / theirs": spread, "ours - theirs, single, ms": spread}
    drawing = peers({"ratios": ratios})
    assert "ours / theirs" in drawing
    assert "single, ms" not in drawing
    assert peers({"ratios": {"ours - theirs, single, ms": spread}}) is None


def test_the_same_results_give_the_same_page(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(sweep()))
    pages = [render_page(read_results([file]), title="t") for _ in range(2)]
    assert pages[0] == pages[1]


def spoilt(**parts):
    """A result of which parts are others."""
    return json.dumps({**sweep(), **parts})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 99}', "schema is 99"),
        (json.dumps({k: v for k, v in sweep().items() if k != "summary"}), "no 'summary'"),
        (spoilt(rows=3), "rows is 3, which is not a list"),
        (spoilt(rows=["fast"]), "row 0 is 'fast', which is not an object"),
        (spoilt(rows=[{"p50_ms": {"median": 1}}]), "row 0: p50_ms is"),
        (spoilt(kind=["a"]), "kind is ['a'], which is not a word"),
        (spoilt(machine="mine"), "machine is 'mine'"),
        (spoilt(summary=[{"p99_ms": 1.0, "texts_per_s": 2.0}]), "p99_ms is 1.0, which has no min"),
        (spoilt(kind="peers", ratios={"a / b": 2.0}), "is no result of the kind 'peers'"),
        (spoilt(kind="precisions", rows=[{"mean_cosine": 1.0}]), "of the kind 'precisions'"),
        (spoilt(unavailable=["vLLM"]), "is no result of the kind"),
        ('{"what": "foreign", "machine": {"gpus": 3}}', "is no result of the kind 'record'"),
        ('{"what": "foreign", "plans": [{"gpu": "H200"}]}', "is no result of the kind 'record'"),
    ],
)
def test_foreign_parts_are_one_line_that_names_the_file(tmp_path, content, said, capsys):
    file = tmp_path / "x.json"
    file.write_text(content)
    assert main(["report", str(file), "--html", str(tmp_path / "x.html")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "x.json" in line
    assert said in line


@pytest.mark.parametrize("content", ["[]", "3", '{"tokens_per_s": []}'])
def test_the_readmes_table_is_of_a_result_of_the_bench(tmp_path, content, capsys):
    file = tmp_path / "x.json"
    file.write_text(content)
    assert main(["report", "--readme", str(ROOT / "README.md"), str(file)]) == 1
    assert f"error: {file} is no result of the bench" in capsys.readouterr().err


def test_every_committed_result_can_be_shown():
    files = sorted(BENCH.parent.glob("*.json"))
    page = render_page(read_results(files), title="t")
    assert page.count("<section") == len(files)


def test_a_rest_below_zero_is_shown_as_none_with_the_reason(tmp_path):
    rows = [row(load="concurrency", concurrency=n, outside_ms=-0.5, repeat=1) for n in (1, 2)]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(make_result(kind="sweep", what="x", rows=rows)))
    page = render_page(read_results([file]), title="t")
    assert "<td>-</td>" in page
    assert "-0.5" not in page
    assert "outside ms -: below zero" in page


@pytest.mark.parametrize("without", [(), ("schema", "kind", "taken_at", "machine", "rows")])
def test_a_plan_is_shown_with_its_answer(tmp_path, without, capsys):
    """Of today's form, and of the one before it, which said nothing of its origin."""
    file = tmp_path / "plan.json"
    words = ["--precision", "fp16", "--gpu", "H200", "--gpu", "T4"]
    assert main(["plan", *words, "--output", str(file)]) == 0
    printed = capsys.readouterr().out
    plan = json.loads(file.read_text())
    assert plan["kind"] == "plan"
    assert plan["command"].startswith("lasttoken-perf")
    assert {"schema", "taken_at", "revision", "machine"} <= plan.keys()
    file.write_text(json.dumps({k: v for k, v in plan.items() if k not in without}))
    page = html.unescape(render_page(read_results([file]), title="t"))
    [option] = [line for line in printed.splitlines() if line.startswith("| H200")]
    cells = "".join(f"<td>{cell.strip()}</td>" for cell in option.strip("|").split("|"))
    assert cells in page
    assert "<td>T4 in fp16: a text of mean length alone takes more than half of the" in page
    assert "<td>objective_ms</td><td>200</td>" in page
    assert "m measured, p published, c computed" in page


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": "latency"}', '{"schema": 99}'])
def test_what_is_no_result_is_refused(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(MalformedResult):
        read_results([file])


def test_the_readmes_table_is_that_of_the_measured_run():
    """Red when README.md or the JSON was changed by hand; the command in the marker mends it."""
    readme = (ROOT / "README.md").read_text()
    assert f"{BEGIN}\n{readme_block(json.loads(BENCH.read_text()))}\n" in readme


def test_a_stale_table_is_written_anew(tmp_path):
    readme = tmp_path / "README.md"
    speeds = json.loads(BENCH.read_text())["tokens_per_s"]
    served = f"| {speeds['served, one text a request']['median']:.0f} |"
    readme.write_text((ROOT / "README.md").read_text().replace(served, "| 1700 |"))
    assert write_readme(readme, BENCH)
    assert readme.read_text() == (ROOT / "README.md").read_text()
    assert not write_readme(readme, BENCH)
    stopped = {**json.loads(BENCH.read_text()), "interrupted": "SIGINT after 5 rows"}
    (tmp_path / "bench.json").write_text(json.dumps(stopped))
    with pytest.raises(MalformedResult, match="ended before its time: SIGINT after 5 rows"):
        write_readme(readme, tmp_path / "bench.json")
    readme.write_text("no markers")
    with pytest.raises(MalformedResult):
        write_readme(readme, BENCH)


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium():
    """Debian's headless Chromium; installed where a test may do that."""
    if shutil.which("chromium") is None:
        if os.geteuid() or shutil.which("apt-get") is None:
            pytest.skip("no chromium on the PATH, and it cannot be installed here")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
        if subprocess.run(install, env=environment, capture_output=True).returncode:
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
            subprocess.run(install, env=environment, check=True, capture_output=True)
    return [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-dev-shm-usage",
    ]  # fmt: skip


MEASURE = """<script>addEventListener("load", () => {
  const wide = document.documentElement.scrollWidth;
  const plots = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().width);
  const size = parseFloat(getComputedStyle(document.body).fontSize);
  document.title = JSON.stringify({view: innerWidth, wide, plots, size});
});</script></body>"""


@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(chromium, page, tmp_path, width):
    """500 is the narrowest window of headless Chromium; a phone's 390 is checked in a frame."""
    shown, profile = tmp_path / "page.html", tmp_path / "profile"
    shown.write_text(page.replace("</body>", MEASURE))
    options = [f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run(
        [*chromium, *options, shown.as_uri()], capture_output=True, text=True, timeout=120
    )
    seen = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1].replace("&quot;", '"'))
    assert seen["wide"] <= seen["view"]
    assert len(seen["plots"]) == 5
    assert all(100 < plot <= seen["view"] for plot in seen["plots"])
    assert seen["size"] >= 16


def test_a_phone_shows_it_without_scrolling_sideways(chromium, page, tmp_path):
    inner, outer, profile = (tmp_path / n for n in ("page.html", "phone.html", "profile"))
    report = MEASURE.replace("document.title = ", "parent.postMessage(").replace(
        "size});\n", 'size}), "*");\n'
    )
    inner.write_text(page.replace("</body>", report))
    outer.write_text(
        '<title>x</title><script>addEventListener("message", e => { document.title = e.data; });'
        '</script><iframe src="page.html" width="390" height="800"></iframe>'
    )
    options = [f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*chromium, *options, outer.as_uri()], capture_output=True, text=True, timeout=120
    )
    seen = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1].replace("&quot;", '"'))
    assert seen["view"] == 390
    assert seen["wide"] <= 390
