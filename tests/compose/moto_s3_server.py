"""moto's S3 server as a container. It ignores the real server's arguments and loses its objects when it stops."""

import signal
import sys

from moto.server import ThreadedMotoServer


def main() -> int:
    """Serve on port 8333 until SIGTERM."""
    server = ThreadedMotoServer("0.0.0.0", port=8333, verbose=False)
    server.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
