"""A receiver of OTLP over HTTP that decodes and keeps the metrics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Point:
    """A value and the time of its measurement in nanoseconds."""

    name: str
    unit: str
    kind: str  # counter or gauge
    value: float
    labels: dict[str, str]
    time: int


@dataclass
class OtlpReceiver:
    """The received points, in order."""

    url: str = ""
    points: list[Point] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    received: Condition = field(default_factory=Condition)

    def counted(self, name: str, *labels: str) -> list[tuple[str, ...]]:
        """Return the labels of each count of 1."""
        return [tuple(point.labels.get(label, "") for label in labels) for point in self.points
                if point.name == name and point.value == 1]

    def last(self, name: str, **labels: str) -> float:
        """Return the last value of a gauge with these labels."""
        values = [point.value for point in self.points
                  if point.name == name and labels.items() <= point.labels.items()]
        return values[-1]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the received points fulfill the condition."""
        with self.received:
            assert self.received.wait_for(condition, WAIT_SECONDS)

    def receive(self, body: bytes) -> None:
        """Decode and keep a request."""
        with self.received:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(
                    {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes})
                for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                    self.points += parse_points(metric)
            self.received.notify_all()


def parse_points(metric) -> list[Point]:
    kind = {"sum": "counter", "gauge": "gauge"}[metric.WhichOneof("data")]
    points = []
    for point in (metric.sum if kind == "counter" else metric.gauge).data_points:
        value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
        labels = {attribute.key: attribute.value.string_value for attribute in point.attributes}
        points.append(Point(metric.name, metric.unit, kind, value, labels, point.time_unix_nano))
    return points


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """Run a receiver on a loopback port."""
    receiver = OtlpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/metrics", "application/x-protobuf")
            receiver.receive(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
