"""Version of the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lasttoken-export")
except PackageNotFoundError:  # a checkout on the path, as on a GPU machine without network
    __version__ = "0+checkout"
