"""What the transports cost and how promptly they act, over loopback, the server in a process of its own.

    python -m benchmarks.transport [--calls 2000]

CPU is that of this process alone, the median of five rounds that take turns. ``cancel`` is from a task's cancellation
until the server sees the connection's end, ``first event`` from the server's write until the client has the bytes;
both are the worst of 50. These are the figures of ADR 0004.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import httpx
import httpx2

from dspex.providers.transport import DirectTransport, DirectWire, HttpxWire, Timeouts, Wire

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer x", "Accept": "application/json"}
BODY = b'{"model": "bench", "messages": [{"role": "user", "content": "%b"}]}' % (b"What is the capital of it? " * 20)
IN_FLIGHT = (1, 64, 512)

Call = Callable[[], Awaitable[object]]


def wires(url: str) -> dict[str, Wire]:
    """Every transport of the conformance suite."""
    none = Timeouts()
    return {
        "DirectWire": DirectWire(headers=HEADERS, limit=600, timeouts=none, base_url=url),
        "DirectTransport": HttpxWire(DirectTransport(limit=600), headers=HEADERS, timeouts=none),  # type: ignore[arg-type]
        "httpx": HttpxWire(httpx.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=none),
        "httpx2": HttpxWire(httpx2.AsyncHTTPTransport(trust_env=False), headers=HEADERS, timeouts=none),
    }


async def cpu(call: Call, calls: int, in_flight: int) -> float:
    """µs of this process for one call."""
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return (time.process_time() - began) / calls * 1e6


async def costs(url: str, calls: int) -> None:
    """Print the CPU of one call for each transport and for aiohttp by itself."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=600), headers=HEADERS) as session:

        async def bare() -> None:
            async with session.post(url, data=BODY) as response:
                await response.read()

        every = wires(url)
        sends: dict[str, Call] = {"aiohttp": bare}
        for name, wire in every.items():
            sends[name] = lambda wire=wire: wire.send(url, BODY)
        print("CPU µs a call".ljust(16) + "".join(name.rjust(14) for name in sends))
        for width in IN_FLIGHT:
            found: dict[str, list[float]] = {name: [] for name in sends}
            for _ in range(6):
                for name, call in sends.items():
                    # The pools of httpx are too slow at many connections for as many calls.
                    number = calls // 10 if name.startswith("httpx") and width > 64 else calls
                    found[name].append(await cpu(call, max(number, width), width))
            line = "".join(f"{statistics.median(times[1:]):14.0f}" for times in found.values())
            print(f"{width} in flight".ljust(16) + line)
        for wire in every.values():
            await wire.aclose()


async def promptness() -> None:
    """Print how long an end and a beginning take to arrive."""
    ended: asyncio.Queue[float] = asyncio.Queue()
    arrived: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(BODY))
        await arrived.put(writer)
        while await reader.read(1 << 16):
            pass
        await ended.put(time.perf_counter())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    print("worst of 50, ms".ljust(16) + "cancel".rjust(14) + "first event".rjust(14))
    for name, wire in wires(url).items():
        cancelled: list[float] = []
        delays: list[float] = []
        for _ in range(50):
            task = asyncio.ensure_future(wire.send(url, BODY))
            await arrived.get()
            began = time.perf_counter()
            task.cancel()
            cancelled.append(await ended.get() - began)

            async def first(wire: Wire = wire) -> float:
                async with wire.stream(url, BODY) as reply:
                    await reply.read()
                    return time.perf_counter()

            reading = asyncio.ensure_future(first())
            writer = await arrived.get()
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await asyncio.sleep(0.002)
            began = time.perf_counter()
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            delays.append(await reading - began)
            await ended.get()
        print(name.ljust(16) + f"{max(cancelled) * 1e3:14.1f}{max(delays) * 1e3:14.1f}")
        await wire.aclose()
    server.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    calls: int = parser.parse_args().calls
    command = [sys.executable, "-m", "benchmarks.peers.server", "--delay", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        asyncio.run(costs(f"http://127.0.0.1:{port}/v1/chat/completions", calls))
        server.terminate()
    asyncio.run(promptness())


if __name__ == "__main__":
    main()
