"""Messages between the sandbox's processes: marshal values, with file descriptors where asked for.

`marshal` carries JSON values and bytes, huge integers included, and unlike `pickle` runs no code when read.
Standard library only: this module is loaded into the process that forks the programs under test.
"""

from __future__ import annotations

import marshal
import socket
import sys
from collections.abc import Sequence
from typing import Any

# Version 2 writes no back references, so equal values give equal bytes (the execution cache relies on it).
_MARSHAL_VERSION = 2
_MAX_MESSAGE_BYTES = 1 << 17
_LENGTH_BYTES = 4
_FD_BYTES = 4  # a C int
MAX_FDS = 16  # descriptors in a message


def pack(value: Any) -> bytes:
    """Bytes of a value made of None, bool, int, float, str, bytes, list, tuple and dict; else ValueError."""
    return marshal.dumps(value, _MARSHAL_VERSION)


def unpack(data: bytes) -> Any:
    return marshal.loads(data)


def frame(value: Any) -> bytes:
    """A packed value behind its length, for byte streams."""
    return framed(pack(value))


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def take_frame(buffer: bytearray) -> bytes | None:
    """Removes the first whole frame from a buffer and returns its packed value; None if there is none yet."""
    if len(buffer) < _LENGTH_BYTES:
        return None
    end = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    if len(buffer) < end:
        return None
    data = bytes(buffer[_LENGTH_BYTES:end])
    del buffer[:end]
    return data


def packet_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a socket that keeps message boundaries."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, value: Any, fds: Sequence[int] = ()) -> None:
    """Sends one message; the receiver gets duplicates of `fds`."""
    if fds:
        numbers = b"".join([fd.to_bytes(_FD_BYTES, sys.byteorder) for fd in fds])
        end.sendmsg((pack(value),), ((socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers),))
    else:
        end.send(pack(value))


def receive(end: socket.socket) -> tuple[Any, list[int]]:
    """The next message and its descriptors; EOFError when the other side is gone."""
    data, fds, _, _ = socket.recv_fds(end, _MAX_MESSAGE_BYTES, MAX_FDS)
    if not data:
        raise EOFError("the other end of a sandbox channel is closed")
    return unpack(data), fds
