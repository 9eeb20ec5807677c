"""A server that trusts a key serves what that key signed, and nothing else, whoever asks."""

import io

import grpc
import pytest

from benchmarks.fuzzing.bundles import copy_bundle
from recsys.errors import BundleError
from recsys.signing import read_private_key, write_key_pair
from recsys.verification import read_manifest, sign_bundle
from serving.server import RecsysServer, ServerOptions, new_logger
from serving.settings import ServerSettings
from serving.store import MemoryStore
from serving.v1 import admin_pb2 as ab
from serving.v1 import admin_pb2_grpc, recommender_pb2_grpc
from serving.v1 import recommender_pb2 as pb


@pytest.fixture
def key(tmp_path):
    write_key_pair(tmp_path / "site.key")
    return read_private_key(tmp_path / "site.key")


@pytest.fixture
def server(tmp_path, key):
    settings = ServerSettings(trusted_keys=(tmp_path / "site.pub",))
    options = ServerOptions(port=0, admin=True, settings=settings)
    server = RecsysServer(MemoryStore(), options, logger=new_logger(io.StringIO()))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bundle(tiny_run, tmp_path):
    return copy_bundle(tiny_run / "bundle", tmp_path / "bundles" / "first")


def test_unsigned_bundle_is_not_served(server, bundle, key):
    with pytest.raises(BundleError, match="found none"):
        server.make_ready(bundle)
    sign_bundle(bundle, key)
    server.make_ready(bundle)


def test_operator_cannot_activate_an_unsigned_bundle(
    server, bundle, key, open_channel, refusal, tmp_path
):
    sign_bundle(bundle, key)
    server.make_ready(bundle)
    channel = open_channel(server)
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    message = ab.ActivateBundleRequest(bundle_id=read_manifest(bundle)["bundle_id"])
    assert admin.ActivateBundle(message, timeout=10).active
    # The same bundle, its signature gone.
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"signature"', '"nothing"'))
    code, details = refusal(admin.ActivateBundle, message)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details["ErrorInfo"].reason == "BUNDLE_REFUSED"
    stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
    assert stub.GetBundle(pb.GetBundleRequest()).bundle_id == message.bundle_id
