"""Just enough of RFC 6455 to read a host's messages: text frames from server to client, one connection."""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Iterator
from typing import IO

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


def _read(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if data is None or len(data) < count:
        raise ConnectionError("the host closed the connection.")
    return data


def _send(connection: socket.socket, kind: int, payload: bytes) -> None:
    """A short frame; clients must mask what they send."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    connection.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked)


def connect(host: str, port: int, path: str) -> socket.socket:
    """Open a connection and shake hands.

    Raises:
        ConnectionError: the host does not answer as a websocket.
    """
    connection = socket.create_connection((host, port), timeout=30)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        answer += byte
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        connection.close()
        raise ConnectionError("the host opened no websocket.")
    return connection


def messages(connection: socket.socket) -> Iterator[str]:
    """Text messages until the host closes; binary ones (previews) are passed over.

    Raises:
        ConnectionError: the connection broke.
    """
    connection.settimeout(None)
    stream = connection.makefile("rb")
    kind = TEXT
    parts: list[bytes] = []
    while True:
        first, second = _read(stream, 2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", _read(stream, 2))
        elif length == 127:
            (length,) = struct.unpack(">Q", _read(stream, 8))
        payload = _read(stream, length)
        code = first & 0x0F
        if code == CLOSE:
            return
        if code == PING:
            _send(connection, PONG, payload)
        if code >= CLOSE:
            continue
        # Code 0 goes on with the message that the frame before began.
        if code:
            kind, parts = code, []
        parts.append(payload)
        if first & 0x80 and kind == TEXT:
            yield b"".join(parts).decode()
