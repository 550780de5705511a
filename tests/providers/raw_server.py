"""A server of raw sockets for what no well-behaved server does; a thread for each connection."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

CERTIFICATES = Path(__file__).with_name("certificates")

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class RawConnection:
    """One accepted connection, played by a function of the test."""

    def __init__(self, own: socket.socket) -> None:
        self.socket = own
        self._buffer = b""

    def request(self) -> bytes:
        """Read one request, head and body; ``b""`` at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return b""
        head, _, _ = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        whole = len(head) + 4 + length
        while len(self._buffer) < whole:
            if not self._more():
                return b""
        found, self._buffer = self._buffer[:whole], self._buffer[whole:]
        return found

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self.socket.sendall(data)

    def drain(self) -> int:
        """Read on until the client is gone; the number of bytes."""
        count = len(self._buffer)
        self._buffer = b""
        while self._more():
            count += len(self._buffer)
            self._buffer = b""
        return count

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return False
        self._buffer += data
        return bool(data)


class RawServer:
    """Listens on loopback and plays `play` on each connection, which is closed at its end.

    Attributes:
        url: Base URL.
        connections: How many were accepted.
        requests: What a play noted.
        arrived: For the test: something came that it waits for.
        go: For the test: let the server go on; set at the end.
    """

    def __init__(self, play: Callable[[RawServer, RawConnection], None], *, tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.arrived = threading.Event()
        self.go = threading.Event()
        self._play = play
        self._tls = tls
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> RawServer:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        for own in [self._listener, *self._open]:
            with suppress(OSError):
                own.shutdown(socket.SHUT_RDWR)
            own.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                own, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(own)
            self._start(lambda own=own: self._serve(own))

    def _handshake(self, own: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
        with own.dup() as below:
            try:
                secured = context.wrap_socket(own, server_side=True)
            except ssl.SSLError:
                # The alert that says why must not be lost with the connection.
                below.shutdown(socket.SHUT_WR)
                while below.recv(1 << 16):
                    pass
                raise
        self._open.append(secured)
        return secured

    def _serve(self, own: socket.socket) -> None:
        try:
            if self._tls is not None:
                own = self._handshake(own, self._tls)
            self._play(self, RawConnection(own))
        except OSError:
            # A handshake that the client broke off.
            pass
        finally:
            own.close()


def server_tls(*, client_needed: bool = False) -> ssl.SSLContext:
    """The test server's certificate, signed by the test authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    if client_needed:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(CERTIFICATES / "authority.pem")
    return context


def tunnelling(server: RawServer, connection: RawConnection) -> None:
    """Be a proxy: open a tunnel for CONNECT, and answer anything else in the place of the server that it names."""
    head = connection.request()
    server.requests.append(head)
    if not head.startswith(b"CONNECT "):
        connection.send(ANSWER)
        connection.drain()
        return
    host, _, port = head.split(b" ")[1].rpartition(b":")
    with socket.create_connection((host.decode(), int(port))) as far:
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_pipe, args=(far, connection.socket), daemon=True)
        back.start()
        _pipe(connection.socket, far)
        back.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def answering(server: RawServer, connection: RawConnection) -> None:
    """Answer each request with ``{}``."""
    while request := connection.request():
        server.requests.append(request)
        server.arrived.set()
        connection.send(ANSWER)


@contextmanager
def full_listener() -> Generator[str]:
    """A listening socket whose queue is full: a further connection is neither accepted nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers: list[socket.socket] = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()
