"""Makes right calls of the package's own handlers, and prints of each a digest of what it stores.

    python bits.py LIBRARY CALLS

LIBRARY is that of bits.cpp, built for the machine of this Python. No package but ours is needed.
"""

import ctypes
import sys

from nadam_xla import _native


def main() -> None:
    """Prints a line for each call."""
    library = ctypes.CDLL(sys.argv[1])
    for digest in digests(library, handlers(names_of(library)), int(sys.argv[2])):
        print(f"{digest:016x}")


def names_of(library: ctypes.CDLL) -> list[str]:
    """The targets that it calls, in its order."""
    library.nadam_xla_name_of_target.restype = ctypes.c_char_p
    names: list[str] = []
    while name := library.nadam_xla_name_of_target(len(names)):
        names.append(name.decode())
    return names


def handlers(names: list[str]) -> list[int]:
    """The addresses of the module's handlers."""
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype = ctypes.c_void_p
    address_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsules = _native.registrations()
    return [address_of(capsules[name]["execute"], None) for name in names]


def digests(library: ctypes.CDLL, handlers: list[int], calls: int) -> list[int]:
    """Of each call.

    Raises:
        SystemExit: a call was refused.
    """
    found = (ctypes.c_uint64 * calls)()
    digest = library.nadam_xla_digests
    digest.restype = ctypes.c_int64
    given = (ctypes.c_void_p * len(handlers))(*handlers)
    refused = digest(given, ctypes.c_int64(0), ctypes.c_int64(calls), found)
    if refused != -1:
        raise SystemExit(f"call {refused} is refused")
    return list(found)


if __name__ == "__main__":
    main()
