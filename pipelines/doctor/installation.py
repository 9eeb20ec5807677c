"""The installation: Python, packages, extras, FAISS, the port."""

import platform
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from pipelines.doctor.findings import Finding as AnyFinding
from serving.addresses import is_loopback

PACKAGE = "recsys"
OLDEST_PYTHON = (3, 11)
EXTRAS = (("cpu", "gpu"), ("train", "train-gpu"), ("tune",), ("tracing",), ("jax",))
"""Those that bring the same stand together: one of them is enough."""
GPU_DEVICE = Path("/dev/nvidia0")
Finding = partial(AnyFinding, "installation")


def check_installation(host: str, port: int) -> Iterator[AnyFinding]:
    """Yield what is found of this machine's installation.

    Args:
        host, port: Where a server is to listen.
    """
    yield _check_python(sys.version_info[:2])
    try:
        requirements = [Requirement(text) for text in requires(PACKAGE) or ()]
    except PackageNotFoundError:
        yield Finding("packages", "problem", "recsys is not installed", "run `pip install .`")
        return
    yield from _check_packages(_of_extra(requirements, ""))
    for extras in EXTRAS:
        yield _check_extras({extra: _of_extra(requirements, extra) for extra in extras})
    yield _check_messages()
    yield _check_faiss()
    yield _check_port(host, port)


def _check_python(found: tuple[int, ...]) -> AnyFinding:
    if found < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        remedy = f"make the environment with Python {oldest} or newer"
        return Finding("Python", "problem", platform.python_version(), remedy)
    return Finding("Python", "good", f"{platform.python_version()}, {platform.machine()}")


def _of_extra(requirements: Iterable[Requirement], extra: str) -> list[Requirement]:
    """Return what an extra needs beyond the base; the base itself for an empty name."""
    own = []
    for requirement in requirements:
        marker = requirement.marker
        if marker is None:
            is_asked = not extra
        else:
            is_asked = marker.evaluate({"extra": extra}) and bool(
                extra or "extra" not in str(marker)
            )
        if is_asked and requirement.name == PACKAGE:
            own += [each for name in requirement.extras for each in _of_extra(requirements, name)]
        elif is_asked:
            own.append(requirement)
    return own


def _faults(requirements: Iterable[Requirement]) -> Iterator[str]:
    for requirement in requirements:
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} is {found}, not {requirement.specifier}"


def _check_packages(requirements: list[Requirement]) -> Iterator[AnyFinding]:
    faults = list(_faults(requirements))
    for fault in faults:
        yield Finding("packages", "problem", fault, "run `pip install .` in this environment")
    if not faults:
        yield Finding("packages", "good", f"{len(requirements)} for serving, all as required")


def _check_extras(requirements: Mapping[str, list[Requirement]]) -> AnyFinding:
    """Say which of some extras is installed, of which one is enough."""
    names = " or ".join(requirements)
    remedy = f"`pip install '.[{next(iter(requirements))}]'`"
    faults = {extra: list(_faults(needed)) for extra, needed in requirements.items()}
    if not any(requirements.values()):
        return Finding(names, "warning", "recsys was installed before there was this", remedy)
    for extra, found in faults.items():
        if requirements[extra] and not found:
            return Finding(names, "good", "installed")
    nearest = min(faults, key=lambda extra: len(faults[extra]))
    if len(faults[nearest]) < len(requirements[nearest]):
        return Finding(names, "absent", f"not whole: {faults[nearest][0]}; {remedy} mends it")
    return Finding(names, "absent", f"not installed; {remedy} adds it")


def _check_messages() -> AnyFinding:
    if find_spec("serving.v1") and find_spec("serving.v1.recommender_pb2"):
        return Finding("messages", "good", "built from protos/")
    remedy = "`pip install .` builds them"
    return Finding("messages", "problem", "serving/v1 is not built", remedy)


def _check_faiss() -> AnyFinding:
    try:
        import faiss
    except ImportError:
        return Finding("FAISS", "absent", "not installed: indexes of kind exact only")
    num_gpus = faiss.get_num_gpus()
    found = f"{faiss.__version__}, {faiss.get_compile_options().strip()}, {num_gpus} GPUs"
    if GPU_DEVICE.exists() and num_gpus == 0:
        remedy = "`pip uninstall faiss-cpu`, then `pip install '.[gpu]'`"
        return Finding("FAISS", "warning", f"{found}, but the machine has one", remedy)
    return Finding("FAISS", "good", found)


def _check_port(host: str, port: int) -> AnyFinding:
    address = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), port))
        except OSError as error:
            remedy = "if that is not your server, give `recsys serve` another --port"
            return Finding("port", "warning", f"{address} is taken: {error.strerror}", remedy)
    whose = "this machine's alone" if is_loopback(host) else "open to others"
    return Finding("port", "good", f"{address} is free, {whose}")
