"""A server that answers every call with one message: what gRPC itself takes for a call, in Python.

python -m benchmarks.peers.bare_server --port 0
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from serving.stop_signal import StopSignal
from serving.v1 import recommender_pb2, recommender_pb2_grpc

NUM_ITEMS = 20
THREADS = 4


class _Bare(recommender_pb2_grpc.RecommenderServiceServicer):
    """Knows one answer, of the size that a page usually has."""

    def __init__(self) -> None:
        items = [
            {
                "item_id": f"item-{position}",
                "position": position,
                "source": "candidate_net",
                "sources": ["candidate_net"],
                "expected_watch_duration": {"seconds": position, "nanos": 123_456_789},
            }
            for position in range(NUM_ITEMS)
        ]
        self._answer = recommender_pb2.RecommendItemsResponse(bundle_id="0" * 64, items=items)

    def RecommendItems(self, message: Any, context: grpc.ServicerContext) -> Any:
        """Answer."""
        return self._answer


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    arguments, _ = parser.parse_known_args()
    server = grpc.server(ThreadPoolExecutor(THREADS))
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(_Bare(), server)
    port = server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    with StopSignal() as stopping:
        server.start()
        print(f"serving on 127.0.0.1:{port}, ready", flush=True)
        stopping.wait()
        server.stop(None)


if __name__ == "__main__":
    main()
