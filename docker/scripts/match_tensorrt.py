"""Prints the version of the TensorRT library that is installed, as ``major.minor.patch``.

A plan runs only with the version that built it, so both ask the library itself.
Exits with 1 where there is none.

Source: getInferLibVersion of NvInferRuntime.h: major * 10000 + minor * 100 + patch from 10 on.
"""

import ctypes
import ctypes.util
import sys

NAMES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so")


def library_version(names=NAMES):
    """Return (major, minor, patch) of the first library that loads; None if none does."""
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = int(library.getInferLibVersion())
        return number // 10000, number // 100 % 100, number % 100
    return None


def main():
    """Print the version; return the exit code."""
    version = library_version()
    if version is None:
        sys.stderr.write(f"no TensorRT library ({', '.join(NAMES)}) on this image\n")
        return 1
    sys.stdout.write(".".join(map(str, version)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
