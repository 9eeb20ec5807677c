"""A short run of `python -m benchmarks.fuzz`, and that it would notice."""

import pytest

from benchmarks import fuzz
from benchmarks.fuzzing import requests
from recsys import verification
from recsys.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tiny_run):
    return tiny_run / "bundle"


@pytest.fixture(scope="module")
def channel(bundle):
    with fuzz.serve(bundle) as channel:
        yield channel


def test_any_bytes_get_an_answer_or_a_refusal_with_details(channel):
    counts = fuzz.fuzz_requests(channel, 600, seed=0)
    assert counts["request/OK"] > 50
    assert counts["request/INVALID_ARGUMENT"] > 50


def test_every_method_is_fuzzed():
    assert len(requests.METHODS) == 15


def test_no_tampered_file_is_loaded(bundle, tmp_path):
    counts = fuzz.fuzz_files(bundle, tmp_path, 50, seed=0)
    assert counts["file/refused"] >= 50


def test_no_manifest_ends_in_a_traceback(bundle, tmp_path):
    assert fuzz.fuzz_manifests(bundle, tmp_path, 50, seed=0)["manifest/refused"] > 25


def test_no_sealed_content_ends_in_a_traceback(bundle, tmp_path):
    assert fuzz.fuzz_sealed(bundle, tmp_path, 50, seed=0)["sealed/refused"] > 25


def test_no_sealed_content_passes_for_signed(bundle, tmp_path):
    assert set(fuzz.fuzz_signed(bundle, tmp_path, 20, seed=0)) == {"signed/refused"}


def test_fuzzing_would_notice_a_fault_inside(channel, monkeypatch):
    monkeypatch.setattr(requests, "REFUSALS", requests.REFUSALS - {"NOT_FOUND"})
    with pytest.raises(AssertionError, match="NOT_FOUND"):
        fuzz.fuzz_requests(channel, 300, seed=0)


def test_fuzzing_would_notice_an_unverified_file(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_check_files", lambda directory, hashes: None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        fuzz.fuzz_files(bundle, tmp_path, 50, seed=0)


def test_fuzzing_would_notice_an_error_that_is_no_refusal(bundle, tmp_path, monkeypatch):
    def broken(directory, *, trusted_keys):
        raise ZeroDivisionError

    monkeypatch.setattr(Bundle, "load", broken)
    with pytest.raises(ZeroDivisionError):
        fuzz.fuzz_sealed(bundle, tmp_path, 1, seed=0)
