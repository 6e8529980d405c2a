"""Options of the chart's tests."""


def pytest_addoption(parser):
    parser.addoption("--update-snapshots", action="store_true", help="write the chart's snapshots")
    parser.addoption(
        "--whole-chart-matrix",
        action="store_true",
        help="render 300 combinations",
    )
