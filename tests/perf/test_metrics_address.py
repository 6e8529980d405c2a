"""An address that is not that of the server's metrics is one line before anything is measured."""

import http.server
import threading

import pytest

from lasttoken_perf.errors import MetricsUnavailable
from lasttoken_perf.server_figures import check_metrics, scrape

SERIES = 'nv_inference_request_success{model="m_encoder",version="1"} 0\n'


PAGES = {
    "/metrics": SERIES.encode(),
    "/": b"<html>an index</html>",
    "/other": SERIES.replace("m_", "other_").encode(),
    "/bytes": b"\xff\xfe",
}


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = PAGES.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_models_own_series_pass_also_at_zero(address):
    check_metrics(f"http://{address}/metrics", "m")
    assert scrape(f"http://{address}/metrics") == {
        ("nv_inference_request_success", "m_encoder"): 0.0
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/metrics", "refused"),
        ("http://{address}/missing", "404"),
        ("{address}/metrics", "unknown url type"),
        ("http://{address}/bytes", "decode"),
        ("http://{address}/", "no series of the model 'm'"),
        ("http://{address}/other", "no series of the model 'm'"),
    ],
)
def test_any_other_is_refused_with_what_to_give(address, url, said):
    url = url.format(address=address)
    with pytest.raises(MetricsUnavailable, match=said) as raised:
        check_metrics(url, "m")
    assert repr(url) in str(raised.value)
    assert "http://HOST:8002/metrics" in str(raised.value)
