"""The line between the two processes of the assert form: frames over two pipes, and the kinds of frames.

The tests ask: an operation's name, a newline, and (keyword arguments, arguments). The program answers with a value or
an exception; before that it may ask for calls of functions that it was given. Values are in `sandbox.codec`'s form.
Standard library only.
"""

from __future__ import annotations

import os

from sandbox import channel

# The first byte of what the program says, and of the answer when it has asked for a call.
READY = b"R"
VALUE = b"V"  # [contents of the changed arguments or null, value]
RAISED = b"X"  # [contents of the changed arguments or null, exception, its description]
CALLBACK = b"C"  # [number of the function, (keyword arguments, arguments)]

# The containers of a question from this number on are the arguments and what they hold.
FIRST_GIVEN = 2

_READ_BYTES = 1 << 16
_LENGTH_BYTES = 4


class Gone(BaseException):
    """The other process has closed its end."""


class TooLarge(BaseException):
    """A frame is longer than allowed."""


class Link:
    """One side's ends of the two pipes; what it needs is bound when it is made.

    Args:
      largest: bytes of a frame that is read; None sets no bound.
    """

    def __init__(self, reading: int, writing: int, largest: int | None = None):
        self._reading, self._writing, self._largest = reading, writing, largest
        self._read, self._write, self._take = os.read, os.write, channel.take_frame
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        view = memoryview(channel.framed(data))
        try:
            while view:
                view = view[self._write(self._writing, view) :]
        except OSError:
            raise Gone from None

    def receive(self) -> bytes:
        """The next frame."""
        while True:
            if self._largest is not None and self._announced() > self._largest:
                raise TooLarge
            data = self._take(self._buffer)
            if data is not None:
                return data
            try:
                piece = self._read(self._reading, _READ_BYTES)
            except OSError:
                raise Gone from None
            if not piece:
                raise Gone
            self._buffer += piece

    def _announced(self) -> int:
        """Bytes of the frame that is coming in, as far as is known."""
        return int.from_bytes(self._buffer[:_LENGTH_BYTES], "little") if len(self._buffer) >= _LENGTH_BYTES else 0
