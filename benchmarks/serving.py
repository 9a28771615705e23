"""``flexdetr serve`` under load on this machine: pictures a second, p99 and memory by batch size; then a kill.

    python benchmarks/serving.py ARTIFACT PICTURES --requests 400 --clients 8

A server of its own for each batch size, asked by threads over loopback, each of which sends the next picture when the
last one is answered. Memory is the server's, after a tenth of the requests and after all. At the end two servers
answer, and one is killed half-way: a client whose connection breaks asks the other one, and every picture must have its
answer.
"""

from __future__ import annotations

import http.client
import json
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from measure import machine, parser_of

TRIES = 50


@contextmanager
def served(artifact: Path, batch_size: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server's process and port."""
    command = [sys.executable, "-m", "flexdetr", "serve", str(artifact), "--port", "0"]
    command += ["--batch-size", str(batch_size), "--in-flight", "1000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if "http://" in line:
                break
        else:
            raise SystemExit("the server did not start")
        port = int(line.rsplit(":", 1)[1].strip().rstrip("/"))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, port
    finally:
        process.kill()
        process.wait()


class Clients:
    """Threads that ask until every request has its answer."""

    def __init__(self, ports: Sequence[int], pictures: Sequence[bytes], requests: int, clients: int) -> None:
        self.ports, self.pictures = ports, pictures
        self.waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(requests):
            self.waiting.put(number)
        self.seconds: dict[int, float] = {}
        self.broken = 0
        self.threads = [threading.Thread(target=self._ask, args=(place,)) for place in range(clients)]

    def run(self) -> None:
        """Ask, and wait for all answers."""
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end."""
        for thread in self.threads:
            thread.join()

    def _ask(self, place: int) -> None:
        while True:
            try:
                number = self.waiting.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            for attempt in range(TRIES):
                port = self.ports[(place + attempt) % len(self.ports)]
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    connection.request("POST", "/predict", self.pictures[number % len(self.pictures)])
                    answer = connection.getresponse()
                    content = answer.read()
                    # A picture that cannot be read has its answer too: why.
                    if answer.status < 500 and json.loads(content):
                        self.seconds[number] = time.perf_counter() - began
                        break
                except (OSError, http.client.HTTPException):
                    pass
                finally:
                    connection.close()
                self.broken += 1
                time.sleep(0.05)


def megabytes(process: subprocess.Popen[str]) -> float:
    """What a server holds."""
    return psutil.Process(process.pid).memory_info().rss / 1e6


def percentile(values: Sequence[float], percent: int) -> float:
    """In milliseconds."""
    return 1e3 * statistics.quantiles(values, n=100)[percent - 1]


def load(artifact: Path, pictures: Sequence[bytes], batch_size: int, requests: int, clients: int) -> str:
    """A row of the table."""
    with served(artifact, batch_size) as (process, port):
        first = Clients([port], pictures, max(10, requests // 10), clients)
        first.run()
        first.join()
        before = megabytes(process)
        asked = Clients([port], pictures, requests, clients)
        began = time.perf_counter()
        asked.run()
        asked.join()
        passed = time.perf_counter() - began
        took = [*asked.seconds.values()]
        lost = requests - len(took)
        return (
            f"| {batch_size} | {len(took) / passed:.1f} | {percentile(took, 50):.0f} | {percentile(took, 99):.0f} | "
            f"{lost} | {before:.0f} | {megabytes(process):.0f} |"
        )


def kill(artifact: Path, pictures: Sequence[bytes], requests: int, clients: int) -> str:
    """Two servers, of which one is killed."""
    with served(artifact, 8) as (one, first), served(artifact, 8) as (_, second):
        asked = Clients([first, second], pictures, requests, clients)
        asked.run()
        while len(asked.seconds) < requests // 2 and any(thread.is_alive() for thread in asked.threads):
            time.sleep(0.01)
        one.kill()
        asked.join()
        lost = requests - len(asked.seconds)
        return f"one of two servers killed: of {requests} requests {lost} lost, {asked.broken} asked again"


def main() -> None:
    """Print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(options.pictures.iterdir()) if path.is_file()][:64]
    print(machine())
    print(f"{options.requests} requests of {len(pictures)} pictures by {options.clients} clients")
    print("| batch size | pictures/s | p50 ms | p99 ms | lost | MB before | MB after |")
    print("|---|---|---|---|---|---|---|")
    for size in options.batch_sizes:
        print(load(options.artifact, pictures, size, options.requests, options.clients), flush=True)
    print(kill(options.artifact, pictures, options.requests, options.clients))


if __name__ == "__main__":
    main()
