"""An option of the chart's snapshot tests."""


def pytest_addoption(parser):
    parser.addoption("--update-snapshots", action="store_true", help="write the chart's snapshots")
