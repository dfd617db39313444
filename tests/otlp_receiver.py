"""A real receiver of OTLP over HTTP: it decodes what comes and keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


@dataclass(frozen=True)
class Point:
    """One number, and when it was measured (nanoseconds)."""

    name: str
    unit: str
    kind: str  # counter or gauge
    value: float
    labels: dict[str, str]
    time: int


@dataclass
class OtlpReceiver:
    """What came, in its order."""

    url: str = ""
    points: list[Point] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)

    def counted(self, name: str, *labels: str) -> list[tuple[str, ...]]:
        """The labels of what was counted once, a tuple each time."""
        return [tuple(one.labels.get(label, "") for label in labels) for one in self.points
                if one.name == name and one.value == 1]

    def last(self, name: str, **labels: str) -> float:
        """The last value of a gauge with these labels."""
        return [one.value for one in self.points if one.name == name and labels.items() <= one.labels.items()][-1]

    def take(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                kind = {"sum": "counter", "gauge": "gauge"}[metric.WhichOneof("data")]
                for point in (metric.sum if kind == "counter" else metric.gauge).data_points:
                    value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
                    labels = {one.key: one.value.string_value for one in point.attributes}
                    self.points.append(Point(metric.name, metric.unit, kind, value, labels, point.time_unix_nano))


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A receiver on a loopback port."""
    found = OtlpReceiver()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/metrics", "application/x-protobuf")
            found.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    found.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
